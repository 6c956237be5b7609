// The decoder's pass for small models on a processor: a Qwen2-style transformer in float32, one thread.
//
// A framework's calls cost more than a small model's arithmetic, so a whole pass is one call here. Every token's numbers are
// summed in the same order however many tokens are in the pass and whichever guesses stand between them: what it says
// does not depend on what was guessed, to the last bit. So no product is fused with a sum (-ffp-contract=off): a compiler
// may do so in one block and not in another. Matrices are packed by native.py as panels of LANES outputs.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

// Floats in a register, and as many sums as there are registers for: rows of the input times panels of the matrix. Lanes that
// are wider than a register would live in memory.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 6, PANELS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 2, PANELS = 6;
#else
constexpr int LANES = 4, ROWS = 4, PANELS = 2;
#endif
// Scores, and values of a head, that are computed at once. A cache holds a multiple of SLOTS.
constexpr int MOST_HEAD = 256, SLOTS = 64, VALUES = 32;
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t Whole __attribute__((vector_size(LANES * sizeof(int32_t))));

Lanes load(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

void store(float* p, Lanes v) { std::memcpy(p, &v, sizeof v); }

Lanes all(float x) { return Lanes{} + x; }

float sum(Lanes v) {
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += v[i];
  return total;
}

// e^x to a few units in the last place: 2^n e^r with r in +-ln 2 / 2, e^r by its Taylor polynomial.
Lanes exponential(Lanes x) {
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction
  x = x < -87.0f ? all(-87.0f) : x;
  x = x > 88.0f ? all(88.0f) : x;
  const Lanes shifted = x * 1.44269504f + ROUND;
  const Lanes n = shifted - ROUND;
  const Lanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Lanes e = r * (1.0f / 5040) + (1.0f / 720);
  e = e * r + (1.0f / 120);
  e = e * r + (1.0f / 24);
  e = e * r + (1.0f / 6);
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  Whole bits;
  std::memcpy(&bits, &n, sizeof bits);
  bits = (__builtin_convertvector(n, Whole) + 127) << 23;
  Lanes power;
  std::memcpy(&power, &bits, sizeof power);
  return e * power;
}

template <int R, int C>
void block(const float* x, int width, const float* matrix, const float* bias, float* out, int outputs, bool add) {
  Lanes total[R][C] = {};
  for (int k = 0; k < width; ++k) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Lanes w = load(matrix + (c * width + k) * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) total[r][c] += x[r * width + k] * w;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      float* to = out + r * outputs + c * LANES;
      if (bias) total[r][c] += load(bias + c * LANES);
      store(to, add ? load(to) + total[r][c] : total[r][c]);
    }
  }
}

template <int R, int C>
void rows(int count, const float* x, int width, const float* matrix, const float* bias, float* out, int outputs, bool add) {
  for (; count >= R; count -= R, x += R * width, out += R * outputs)
    block<R, C>(x, width, matrix, bias, out, outputs, add);
  if constexpr (R > 1) {
    if (count > 0) rows<R - 1, C>(count, x, width, matrix, bias, out, outputs, add);
  }
}

// out [count, outputs] = x [count, width] times the packed matrix, plus bias; or added to what is there.
void multiply(int count, const float* x, int width, const float* matrix, const float* bias, float* out, int outputs,
              bool add = false) {
  int column = 0;
  for (; column + PANELS * LANES <= outputs; column += PANELS * LANES)
    rows<ROWS, PANELS>(count, x, width, matrix + column * width, bias ? bias + column : nullptr, out + column, outputs, add);
  for (; column < outputs; column += LANES)
    rows<ROWS, 1>(count, x, width, matrix + column * width, bias ? bias + column : nullptr, out + column, outputs, add);
}

void normalise(int count, const float* x, int width, const float* weight, float epsilon, float* out) {
  for (int t = 0; t < count; ++t, x += width, out += width) {
    Lanes squares{};
    for (int i = 0; i < width; i += LANES) squares += load(x + i) * load(x + i);
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
  const float *final_norm, *cosines, *sines;  // tables [capacity, head]; the first half of the sines is negative
  float *normed, *projected, *read, *opened, *activated, *scores;  // room for a pass of `capacity` tokens
  int32_t* path;
};

// A sequence's share of a pass: `tokens` of it stand behind the `length` that it holds. parents[i]: the token of the share
// before token i, -1 the last one held. keys [layers, kv_heads, head, capacity], values [layers, kv_heads, capacity, head].
struct Part {
  int32_t tokens, length;
  const int32_t* parents;
  float *keys, *values;
};
}

namespace {

// The tokens of a pass that token i may read, itself the last; how many.
int branch(const int32_t* parents, int i, int32_t* path) {
  int depth = 0;
  for (int node = i; node >= 0; node = parents[node]) ++depth;
  for (int node = i, place = depth; node >= 0; node = parents[node]) path[--place] = node;
  return depth;
}

void rotate(const float* x, const float* cosines, const float* sines, int head, float* out, int stride) {
  for (int d = 0; d < head; ++d) out[d * stride] = x[d] * cosines[d] + x[(d + head / 2) % head] * sines[d];
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
    for (int g = 0; g < d_.kv_heads; ++g) {
      const float* key = projected + (d_.heads + g) * d_.head;
      rotate(key, d_.cosines + table, d_.sines + table, d_.head, keys_ + g * d_.head * d_.capacity + slot, d_.capacity);
      std::memcpy(values_ + (g * d_.capacity + slot) * d_.head, key + d_.kv_heads * d_.head, d_.head * sizeof(float));
    }
  }

  // What token i reads, [heads, head], along its branch of the pass.
  void read(int i, const int32_t* path, int depth, const float* projected, float* out) {
    const int shared = d_.heads / d_.kv_heads, place = part_.length + depth - 1;
    float query[MOST_HEAD];
    for (int h = 0; h < d_.heads; ++h) {
      const int g = h / shared;
      rotate(projected + h * d_.head, d_.cosines + place * d_.head, d_.sines + place * d_.head, d_.head, query, 1);
      score(query, keys_ + g * d_.head * d_.capacity, part_.length + i + 1);
      for (int m = 0; m < depth; ++m) d_.scores[part_.length + m] = d_.scores[part_.length + path[m]];
      mix(soften(part_.length + depth), path, values_ + g * d_.capacity * d_.head, part_.length + depth, out + h * d_.head);
    }
  }

 private:
  void score(const float* query, const float* keys, int slots) {
    const float scale = 1.0f / std::sqrt((float)d_.head);
    for (int j = 0; j < slots; j += SLOTS) {
      Lanes total[SLOTS / LANES] = {};
      for (int d = 0; d < d_.head; ++d) {
#pragma GCC unroll 16
        for (int b = 0; b < SLOTS / LANES; ++b) total[b] += query[d] * load(keys + d * d_.capacity + j + b * LANES);
      }
#pragma GCC unroll 16
      for (int b = 0; b < SLOTS / LANES; ++b) store(d_.scores + j + b * LANES, total[b] * scale);
    }
  }

  // Scores to weights that are not divided by their sum yet, which is returned.
  float soften(int count) {
    float most = -std::numeric_limits<float>::infinity();
    for (int j = 0; j < count; ++j) most = d_.scores[j] > most ? d_.scores[j] : most;
    for (int j = count; j % LANES; ++j) d_.scores[j] = -std::numeric_limits<float>::infinity();
    Lanes total{};
    for (int j = 0; j < count; j += LANES) {
      Lanes weight = exponential(load(d_.scores + j) - most);
      if (j + LANES > count)
        for (int lane = count - j; lane < LANES; ++lane) weight[lane] = 0;
      store(d_.scores + j, weight);
      total += weight;
    }
    return sum(total);
  }

  void mix(float whole, const int32_t* path, const float* values, int count, float* out) {
    int d = 0;
    for (; d + VALUES <= d_.head; d += VALUES) mixed<VALUES / LANES>(whole, path, values + d, count, out + d);
    for (; d < d_.head; d += LANES) mixed<1>(whole, path, values + d, count, out + d);
  }

  template <int B>
  void mixed(float whole, const int32_t* path, const float* values, int count, float* out) {
    Lanes total[B] = {};
    for (int j = 0; j < count; ++j) {
      const int slot = j < part_.length ? j : part_.length + path[j - part_.length];
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) total[b] += d_.scores[j] * load(values + slot * d_.head + b * LANES);
    }
#pragma GCC unroll 16
    for (int b = 0; b < B; ++b) store(out + b * LANES, total[b] / whole);
  }

  const Decoder& d_;
  const Part& part_;
  float *keys_, *values_;
};

// What all tokens of a part read, those before `first` left out; their keys and values are kept all the same.
void attend(const Decoder& d, const Part& part, int layer, const float* projected, int first, float* read) {
  Attention attention(d, part, layer);
  const int stride = (d.heads + 2 * d.kv_heads) * d.head;
  for (int i = 0; i < part.tokens; ++i)
    attention.keep(i, part.length + branch(part.parents, i, d.path) - 1, projected + i * stride);
  for (int i = first; i < part.tokens; ++i) {
    const int depth = branch(part.parents, i, d.path);
    attention.read(i, d.path, depth, projected + i * stride, read + i * d.heads * d.head);
  }
}

void activate(int count, const float* opened, int inner, float* out) {
  for (int t = 0; t < count; ++t, opened += 2 * inner, out += inner) {
    for (int i = 0; i < inner; i += LANES) {
      const Lanes gate = load(opened + inner + i);
      store(out + i, load(opened + i) * gate / (1.0f + exponential(-gate)));
    }
  }
}

}  // namespace

extern "C" {

int32_t molmoact_lanes() { return LANES; }

// One pass. x [tokens of all parts, width]: embeddings in, hidden states after the final norm out, from token `first` on; a
// `first` other than 0 is for a pass of one part.
void molmoact_pass(const Decoder* decoder, const Part* parts, int32_t count, int32_t first, float* x) {
  const Decoder& d = *decoder;
  const int projection = (d.heads + 2 * d.kv_heads) * d.head, heads = d.heads * d.head;
  int tokens = 0;
  for (int p = 0; p < count; ++p) tokens += parts[p].tokens;
  for (int number = 0; number < d.layers; ++number) {
    const Layer& layer = d.layer[number];
    normalise(tokens, x, d.width, layer.attention_norm, d.epsilon, d.normed);
    multiply(tokens, d.normed, d.width, layer.project, layer.project_bias, d.projected, projection);
    // Behind the last layer's keys and values nothing follows but what is wanted.
    const int from = number + 1 == d.layers ? first : 0, rows = tokens - from;
    for (int p = 0, row = 0; p < count; row += parts[p++].tokens)
      attend(d, parts[p], number, d.projected + row * projection, from, d.read + row * heads);
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
  float most = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < count; ++i) {
    const float* row = head + ids[i] * width;
    Lanes total{};
    for (int k = 0; k < width; k += LANES) total += load(row + k) * load(hidden + k);
    const float score = sum(total);
    if (!std::isfinite(score)) return -1;
    if (score > most) most = score, best = i;
  }
  return best;
}
}
