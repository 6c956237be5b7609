// The vision tower and its connector for small models on a processor: in float32, one thread, one call for all images.
//
// The sums are those of engine/model/molmoact.py, in another order; the engine compares the two before it uses this one.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../cpu_room.h"
#include "../cpu_simd.h"

extern "C" {

// Matrices are packed (cpu_simd.h), those of query, key and value as one.
struct TowerBlock {
  const float *attention_norm, *attention_shift, *project, *project_bias, *output, *output_bias;
  const float *mlp_norm, *mlp_shift, *up, *up_bias, *down, *down_bias;
};

struct Tower {
  int32_t blocks, patch_dim, width, heads, kv_heads, head, inner, taps;
  int32_t pool_width, pool_heads, pool_kv_heads, pool_head, pool_inner, hidden;
  int32_t masked;  // missing patches are no keys and not part of the mean
  float epsilon;
  const TowerBlock* block;
  const int32_t* tap;  // the blocks whose features are pooled, side by side
  const float *patch, *patch_bias, *positions;
  const float *query, *query_bias, *key_value, *key_value_bias, *pool_output, *pool_output_bias;  // of the pooling
  const float *up_gate, *down;                                                                    // of the projector
};
}

namespace {

using namespace simd;

constexpr int STRIP = 48;  // queries whose scores are computed at once: they stay in the cache
constexpr int WINDOW = 4;  // patches that are pooled into one

// (x - mean) / deviation * weight + shift of each row.
void normalise(int count, const float* x, int width, const float* weight, const float* shift, float epsilon, float* out) {
  for (int t = 0; t < count; ++t, x += width, out += width) {
    Lanes total{}, squares{};
    for (int i = 0; i < width; i += LANES) total += load(x + i);
    const float mean = sum(total) / width;
    for (int i = 0; i < width; i += LANES) squares = fused(load(x + i) - mean, load(x + i) - mean, squares);
    const float scale = 1.0f / std::sqrt(sum(squares) / width + epsilon);
    for (int i = 0; i < width; i += LANES)
      store(out + i, fused((load(x + i) - mean) * scale, load(weight + i), load(shift + i)));
  }
}

// GELU by tanh, in place: x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3).
void gelu(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += LANES) {
    const Lanes v = load(x + i);
    const Lanes u = v * fused(v * v, all(0.044715f), all(1.0f));
    store(x + i, v / (1.0f + exponential(u * -1.5957691216057308f)));
  }
}

float product(const float* a, const float* b, int width) {
  Lanes total{};
  for (int i = 0; i < width; i += LANES) total = fused(load(a + i), load(b + i), total);
  return sum(total);
}

class Encoder {
 public:
  Encoder(const Tower& tower, int patches, Room& room) : t_(tower), patches_(patches), keys_(padded(patches)) {
    const int projection = (t_.heads + 2 * t_.kv_heads) * t_.head;
    x_ = room.floats((int64_t)patches * t_.width);
    normed_ = room.floats((int64_t)patches * t_.width);
    projected_ = room.floats((int64_t)patches * projection);
    attended_ = room.floats((int64_t)patches * t_.heads * t_.head);
    opened_ = room.floats((int64_t)patches * t_.inner);
    packed_keys_ = room.floats((int64_t)keys_ * t_.head);
    packed_values_ = room.floats((int64_t)patches * t_.head);
    queries_ = room.floats((int64_t)STRIP * t_.head);
    scores_ = room.floats((int64_t)STRIP * keys_);
    weights_ = room.floats((int64_t)STRIP * patches);
    mixed_ = room.floats((int64_t)STRIP * t_.head);
  }

  // One crop [patches, patch_dim] to the features of the tapped blocks, [patches, taps * width].
  void encode(const float* crop, float* features) {
    multiply(patches_, crop, t_.patch_dim, t_.patch, t_.patch_bias, x_, t_.width);
    for (int64_t i = 0; i < (int64_t)patches_ * t_.width; i += LANES) store(x_ + i, load(x_ + i) + load(t_.positions + i));
    for (int number = 0; number < t_.blocks; ++number) {
      run(t_.block[number]);
      for (int tap = 0; tap < t_.taps; ++tap)
        for (int p = 0; t_.tap[tap] == number && p < patches_; ++p)
          std::memcpy(features + ((int64_t)p * t_.taps + tap) * t_.width, x_ + p * t_.width, t_.width * sizeof(float));
    }
  }

 private:
  void run(const TowerBlock& block) {
    const int heads = t_.heads * t_.head;
    normalise(patches_, x_, t_.width, block.attention_norm, block.attention_shift, t_.epsilon, normed_);
    multiply(patches_, normed_, t_.width, block.project, block.project_bias, projected_, heads + 2 * t_.kv_heads * t_.head);
    for (int h = 0; h < t_.heads; ++h) attend(h);
    multiply(patches_, attended_, heads, block.output, block.output_bias, x_, t_.width, true);
    normalise(patches_, x_, t_.width, block.mlp_norm, block.mlp_shift, t_.epsilon, normed_);
    multiply(patches_, normed_, t_.width, block.up, block.up_bias, opened_, t_.inner);
    gelu(opened_, (int64_t)patches_ * t_.inner);
    multiply(patches_, opened_, t_.inner, block.down, block.down_bias, x_, t_.width, true);
  }

  // What all patches read with one head: scores and weighted values are products with the packed keys and values.
  void attend(int h) {
    const int stride = (t_.heads + 2 * t_.kv_heads) * t_.head, g = h / (t_.heads / t_.kv_heads);
    const float *query = projected_ + h * t_.head, *key = projected_ + (t_.heads + g) * t_.head;
    const float scale = 1.0f / std::sqrt((float)t_.head);
    pack(key, stride);
    for (int first = 0; first < patches_; first += STRIP) {
      const int count = std::min(STRIP, patches_ - first);
      for (int i = 0; i < count; ++i)
        for (int d = 0; d < t_.head; d += LANES)
          store(queries_ + i * t_.head + d, load(query + (int64_t)(first + i) * stride + d) * scale);
      multiply(count, queries_, t_.head, packed_keys_, nullptr, scores_, keys_);
      float whole[STRIP];
      for (int i = 0; i < count; ++i) whole[i] = soften(scores_ + i * keys_, patches_);
      multiply(count, tight(count), patches_, packed_values_, nullptr, mixed_, t_.head);
      for (int i = 0; i < count; ++i)
        for (int d = 0; d < t_.head; d += LANES)
          store(attended_ + ((int64_t)(first + i) * t_.heads + h) * t_.head + d, load(mixed_ + i * t_.head + d) / whole[i]);
    }
  }

  // The weights of `count` queries without the padding of their rows.
  const float* tight(int count) {
    if (keys_ == patches_) return scores_;
    for (int i = 0; i < count; ++i) std::memcpy(weights_ + i * patches_, scores_ + i * keys_, patches_ * sizeof(float));
    return weights_;
  }

  // A head's keys as a matrix [patches, head] and its values as a matrix [head, patches], in panels.
  void pack(const float* key, int stride) {
    const float* value = key + t_.kv_heads * t_.head;
    for (int p = 0; p < keys_; ++p) {
      float* column = packed_keys_ + p / LANES * LANES * t_.head + p % LANES;
      for (int d = 0; d < t_.head; ++d) column[d * LANES] = p < patches_ ? key[(int64_t)p * stride + d] : 0.0f;
    }
    for (int p = 0; p < patches_; ++p)
      for (int d = 0; d < t_.head; d += LANES)
        store(packed_values_ + (int64_t)d * patches_ + p * LANES, load(value + (int64_t)p * stride + d));
  }

  const Tower& t_;
  const int patches_, keys_;
  float *x_, *normed_, *projected_, *attended_, *opened_;
  float *packed_keys_, *packed_values_, *queries_, *scores_, *weights_, *mixed_;
};

// Attention from the mean of each window to its patches. features [patches + 1, taps * width], the last row, of zeros, for
// missing patches; index [tokens, WINDOW]; out [tokens, pool_width].
void pool(const Tower& t, const float* features, int patches, const int64_t* index, int tokens, Room& room, float* out) {
  const int wide = t.taps * t.width, heads = t.pool_heads * t.pool_head, kv = t.pool_kv_heads * t.pool_head;
  float* means = room.floats((int64_t)tokens * wide);
  float* queries = room.floats((int64_t)tokens * heads);
  float* keys = room.floats((int64_t)(patches + 1) * 2 * kv);
  float* read = room.floats((int64_t)tokens * heads);
  const auto row = [&](int token, int j) { return index[token * WINDOW + j] < 0 ? patches : index[token * WINDOW + j]; };
  const auto hidden = [&](int token, int j) { return t.masked && index[token * WINDOW + j] < 0; };
  for (int token = 0; token < tokens; ++token) {
    int counted = 0;
    for (int j = 0; j < WINDOW; ++j) counted += !hidden(token, j);
    const float share = 1.0f / std::max(counted, 1);
    for (int i = 0; i < wide; i += LANES) {
      Lanes total{};
      for (int j = 0; j < WINDOW; ++j) total += load(features + row(token, j) * wide + i);
      store(means + (int64_t)token * wide + i, total * share);
    }
  }
  multiply(tokens, means, wide, t.query, t.query_bias, queries, heads);
  multiply(patches + 1, features, wide, t.key_value, t.key_value_bias, keys, 2 * kv);
  const float scale = 1.0f / std::sqrt((float)t.pool_head);
  for (int token = 0; token < tokens; ++token)
    for (int h = 0; h < t.pool_heads; ++h) {
      const int g = h / (t.pool_heads / t.pool_kv_heads) * t.pool_head;
      const float* query = queries + (int64_t)token * heads + h * t.pool_head;
      float weight[WINDOW], most = -std::numeric_limits<float>::infinity(), whole = 0;
      for (int j = 0; j < WINDOW; ++j) {
        weight[j] = product(query, keys + row(token, j) * 2 * kv + g, t.pool_head) * scale;
        if (hidden(token, j)) weight[j] = -std::numeric_limits<float>::infinity();
        most = std::max(most, weight[j]);
      }
      for (float& w : weight) whole += w = std::exp(w - most);
      for (int d = 0; d < t.pool_head; d += LANES) {
        Lanes total{};
        for (int j = 0; j < WINDOW; ++j)
          total = fused(all(weight[j] / whole), load(keys + row(token, j) * 2 * kv + kv + g + d), total);
        store(read + (int64_t)token * heads + h * t.pool_head + d, total);
      }
    }
  multiply(tokens, read, heads, t.pool_output, t.pool_output_bias, out, t.pool_width);
}

}  // namespace

// crops [count, patches, patch_dim] and index [tokens, WINDOW] into count * patches (-1: missing) to out [tokens, hidden].
extern "C" void molmoact_tower(const Tower* tower, const float* crops, int32_t count, int32_t patches, const int64_t* index,
                               int32_t tokens, float* out) {
  thread_local Room room;
  room.clear();
  const Tower& t = *tower;
  const int wide = t.taps * t.width, all_patches = count * patches;
  float* features = room.floats((int64_t)(all_patches + 1) * wide);
  std::fill_n(features + (int64_t)all_patches * wide, wide, 0.0f);
  Encoder encoder(t, patches, room);
  for (int crop = 0; crop < count; ++crop)
    encoder.encode(crops + (int64_t)crop * patches * t.patch_dim, features + (int64_t)crop * patches * wide);
  float* pooled = room.floats((int64_t)tokens * t.pool_width);
  float* opened = room.floats((int64_t)tokens * 2 * t.pool_inner);
  float* activated = room.floats((int64_t)tokens * t.pool_inner);
  pool(t, features, all_patches, index, tokens, room, pooled);
  multiply(tokens, pooled, t.pool_width, t.up_gate, nullptr, opened, 2 * t.pool_inner);
  activate(tokens, opened, t.pool_inner, activated);
  multiply(tokens, activated, t.pool_inner, t.down, nullptr, out, t.hidden);
}
