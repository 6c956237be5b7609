// The decoder's pass for small models on a processor: a Qwen2-style transformer in float32, one thread.
//
// A framework's calls cost more than a small model's arithmetic, so a whole pass is one call here. Every token's numbers are
// summed in the same order however many tokens are in the pass and whichever guesses stand between them: what it says
// does not depend on what was guessed, to the last bit. cpu_simd.h says how. Matrices are packed by cpu_library.py as panels of LANES outputs.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../cpu_simd.h"

namespace {

using namespace simd;

// Keys stand in blocks of SLOTS positions, [capacity / SLOTS, head, SLOTS]: a block's cache lines follow each other. (In rows as
// long as the cache, their addresses would differ by powers of two, and few of them fit into the processor's cache together.)
// SPAN scores are computed at once, for HEADS query heads that share keys, and VALUES numbers of a head.
constexpr int MOST_HEAD = 256, SLOTS = 64, SPAN = 4 * LANES, HEADS = LANES == 8 ? 2 : 3, VALUES = 32;

void normalise(int count, const float* x, int width, const float* weight, float epsilon, float* out) {
  for (int t = 0; t < count; ++t, x += width, out += width) {
    Lanes squares{};
    for (int i = 0; i < width; i += LANES) squares = fused(load(x + i), load(x + i), squares);
    const float scale = 1.0f / std::sqrt(sum(squares) / width + epsilon);
    for (int i = 0; i < width; i += LANES) store(out + i, load(x + i) * scale * load(weight + i));
  }
}

}  // namespace

extern "C" {

struct Layer {
  const float *attention_norm, *project, *project_bias, *output, *mlp_norm, *up_gate, *down;
};

struct Decoder {
  int32_t layers, width, heads, kv_heads, head, inner, capacity;
  float epsilon;
  const Layer* layer;
  const float* embedding;                     // [vocabulary, width]
  const float *final_norm, *cosines, *sines;  // tables [capacity, head]; the first half of the sines is negative
  float *normed, *projected, *read, *opened, *activated;  // room for a pass of `capacity` tokens
  float* scores;                                          // [HEADS, capacity]
  int32_t *path, *depths;
};

// A sequence's share of a pass: `tokens` of it stand behind the `length` that it holds. ids: theirs, or null where their
// embeddings are given. parents[i]: the token of the share
// before token i, -1 the last one held. keys [layers, kv_heads, capacity / SLOTS, head, SLOTS], values [layers, kv_heads,
// capacity, head].
struct Part {
  int32_t tokens, length;
  const int32_t *ids, *parents;
  float *keys, *values;
};
}

namespace {

// The embeddings of a share's tokens that are given as ids.
void embed(const Decoder& d, const Part& part, float* x) {
  for (int i = 0; part.ids && i < part.tokens; ++i)
    std::memcpy(x + i * d.width, d.embedding + (int64_t)part.ids[i] * d.width, d.width * sizeof(float));
}

// How many tokens of a share each of them may read, itself included.
void measure(const Part& part, int32_t* depths) {
  for (int i = 0; i < part.tokens; ++i) depths[i] = part.parents[i] < 0 ? 1 : depths[part.parents[i]] + 1;
}

// The `depth` tokens of a share that token i may read, itself the last; null if these are all before it.
const int32_t* branch(const int32_t* parents, int i, int depth, int32_t* path) {
  if (depth == i + 1) return nullptr;
  for (int node = i, place = depth; node >= 0; node = parents[node]) path[--place] = node;
  return path;
}

void rotate(const float* x, const float* cosines, const float* sines, int head, float* out) {
  const int half = head / 2;
  for (int d = 0; d < half; ++d) out[d] = x[d] * cosines[d] + x[d + half] * sines[d];
  for (int d = half; d < head; ++d) out[d] = x[d] * cosines[d] + x[d - half] * sines[d];
}

class Attention {
 public:
  Attention(const Decoder& decoder, const Part& part, int layer)
      : d_(decoder),
        part_(part),
        keys_(part.keys + (int64_t)layer * d_.kv_heads * d_.head * d_.capacity),
        values_(part.values + (int64_t)layer * d_.kv_heads * d_.head * d_.capacity) {}

  // Keep the keys and values of token i, from its projection.
  void keep(int i, int place, const float* projected) {
    const int slot = part_.length + i, table = place * d_.head;
    float rotated[MOST_HEAD];
    for (int g = 0; g < d_.kv_heads; ++g) {
      const float* key = projected + (d_.heads + g) * d_.head;
      rotate(key, d_.cosines + table, d_.sines + table, d_.head, rotated);
      float* column = keys_ + (g * d_.capacity + slot / SLOTS * SLOTS) * d_.head + slot % SLOTS;
      for (int d = 0; d < d_.head; ++d) column[d * SLOTS] = rotated[d];
      std::memcpy(values_ + (g * d_.capacity + slot) * d_.head, key + d_.kv_heads * d_.head, d_.head * sizeof(float));
    }
  }

  // What token i reads, [heads, head], along its branch of the pass.
  void read(int i, const int32_t* path, int depth, const float* projected, float* out) {
    const int shared = d_.heads / d_.kv_heads;
    for (int h = 0; h < d_.heads; h += shared)
      together<HEADS>(shared, h / shared, i, path, depth, projected + h * d_.head, out + h * d_.head);
  }

 private:
  // `count` query heads of the key head g, H at a time.
  template <int H>
  void together(int count, int g, int i, const int32_t* path, int depth, const float* projected, float* out) {
    const int length = part_.length, place = (length + depth - 1) * d_.head;
    float queries[H * MOST_HEAD];
    for (; count >= H; count -= H, projected += H * d_.head, out += H * d_.head) {
      for (int h = 0; h < H; ++h)
        rotate(projected + h * d_.head, d_.cosines + place, d_.sines + place, d_.head, queries + h * d_.head);
      score<H>(queries, keys_ + g * d_.head * d_.capacity, length + i + 1);
      float whole[H];
      for (int h = 0; h < H; ++h) {
        float* scores = d_.scores + h * d_.capacity;
        for (int m = 0; path && m < depth; ++m) scores[length + m] = scores[length + path[m]];
        whole[h] = soften(scores, length + depth);
      }
      mix<H>(whole, path, values_ + g * d_.capacity * d_.head, length + depth, out);
    }
    if constexpr (H > 1) {
      if (count > 0) together<H - 1>(count, g, i, path, depth, projected, out);
    }
  }

  template <int H>
  void score(const float* queries, const float* keys, int slots) {
    const float scale = 1.0f / std::sqrt((float)d_.head);
    for (int j = 0; j < slots; j += SPAN) {
      const float* key = keys + j / SLOTS * SLOTS * d_.head + j % SLOTS;
      Lanes total[H][SPAN / LANES] = {};
      for (int d = 0; d < d_.head; ++d, key += SLOTS) {
#pragma GCC unroll 4
        for (int b = 0; b < SPAN / LANES; ++b) {
          const Lanes k = load(key + b * LANES);
#pragma GCC unroll 4
          for (int h = 0; h < H; ++h) total[h][b] = fused(all(queries[h * d_.head + d]), k, total[h][b]);
        }
      }
#pragma GCC unroll 4
      for (int h = 0; h < H; ++h) {
#pragma GCC unroll 4
        for (int b = 0; b < SPAN / LANES; ++b) store(d_.scores + h * d_.capacity + j + b * LANES, total[h][b] * scale);
      }
    }
  }

  template <int H>
  void mix(const float* whole, const int32_t* path, const float* values, int count, float* out) {
    int d = 0;
    for (; d + VALUES <= d_.head; d += VALUES) mixed<H, VALUES / LANES>(whole, path, values + d, count, out + d);
    for (; d < d_.head; d += LANES) mixed<H, 1>(whole, path, values + d, count, out + d);
  }

  template <int H, int B>
  void mixed(const float* whole, const int32_t* path, const float* values, int count, float* out) {
    Lanes total[H][B] = {};
    const int straight = path ? part_.length : count;
    for (int j = 0; j < count; ++j) {
      const float* value = values + (j < straight ? j : part_.length + path[j - part_.length]) * d_.head;
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) {
        const Lanes v = load(value + b * LANES);
#pragma GCC unroll 4
        for (int h = 0; h < H; ++h) total[h][b] = fused(all(d_.scores[h * d_.capacity + j]), v, total[h][b]);
      }
    }
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) store(out + h * d_.head + b * LANES, total[h][b] / whole[h]);
    }
  }

  const Decoder& d_;
  const Part& part_;
  float *keys_, *values_;
};

// What all tokens of a part read, those before `first` left out; their keys and values are kept all the same.
void attend(const Decoder& d, const Part& part, int layer, const int32_t* depths, const float* projected, int first,
            float* read) {
  Attention attention(d, part, layer);
  const int stride = (d.heads + 2 * d.kv_heads) * d.head;
  for (int i = 0; i < part.tokens; ++i) attention.keep(i, part.length + depths[i] - 1, projected + i * stride);
  for (int i = first; i < part.tokens; ++i) {
    const int32_t* path = branch(part.parents, i, depths[i], d.path);
    attention.read(i, path, depths[i], projected + i * stride, read + i * d.heads * d.head);
  }
}

}  // namespace

extern "C" {

int32_t molmoact_lanes() { return LANES; }

// One pass. x [tokens of all parts, width]: embeddings in, where they are not given as ids; hidden states after the final norm
// out, from token `first` on; a `first` other than 0 is for a pass of one part.
void molmoact_pass(const Decoder* decoder, const Part* parts, int32_t count, int32_t first, float* x) {
  const Decoder& d = *decoder;
  const int projection = (d.heads + 2 * d.kv_heads) * d.head, heads = d.heads * d.head;
  int tokens = 0;
  for (int p = 0; p < count; tokens += parts[p++].tokens) {
    embed(d, parts[p], x + tokens * d.width);
    measure(parts[p], d.depths + tokens);
  }
  for (int number = 0; number < d.layers; ++number) {
    const Layer& layer = d.layer[number];
    normalise(tokens, x, d.width, layer.attention_norm, d.epsilon, d.normed);
    multiply(tokens, d.normed, d.width, layer.project, layer.project_bias, d.projected, projection);
    // Behind the last layer's keys and values nothing follows but what is wanted.
    const int from = number + 1 == d.layers ? first : 0, rows = tokens - from;
    for (int p = 0, row = 0; p < count; row += parts[p++].tokens)
      attend(d, parts[p], number, d.depths + row, d.projected + row * projection, from, d.read + row * heads);
    float* here = x + from * d.width;
    multiply(rows, d.read + from * heads, heads, layer.output, nullptr, here, d.width, true);
    normalise(rows, here, d.width, layer.mlp_norm, d.epsilon, d.normed);
    multiply(rows, d.normed, d.width, layer.up_gate, nullptr, d.opened, 2 * d.inner);
    activate(rows, d.opened, d.inner, d.activated);
    multiply(rows, d.activated, d.inner, layer.down, nullptr, here, d.width, true);
  }
  normalise(tokens - first, x + first * d.width, d.width, d.final_norm, d.epsilon, x + first * d.width);
}

// The place in `ids` of the row of head [vocabulary, width] with the greatest product with hidden [width], the first of equal
// ones; -1 when it is not finite.
int32_t molmoact_best(const float* head, int32_t width, const int64_t* ids, int32_t count, const float* hidden) {
  int best = -1;
  float most = LEAST;
  for (int i = 0; i < count; ++i) {
    const float* row = head + ids[i] * width;
    Lanes total{};
    for (int k = 0; k < width; k += LANES) total = fused(load(row + k), load(hidden + k), total);
    const float score = sum(total);
    if (!std::isfinite(score)) return -1;
    if (score > most) most = score, best = i;
  }
  return best;
}
}
