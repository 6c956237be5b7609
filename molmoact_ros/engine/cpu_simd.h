// Vectors of floats as wide as this processor's registers, and the sums that the CPU kernels share.
//
// Every sum runs over the same terms in the same order, however many rows are computed together. A product and the sum that
// it enters are fused where the processor can do that, and then everywhere: `fused` asks for it by name, and the compiler
// is not allowed to fuse anything else (-ffp-contract=off), which it would do in one block and not in another.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace simd {

// Floats in a register, and as many sums as there are registers for: rows of the input times panels of the matrix. Lanes that
// are wider than a register would live in memory.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 6, PANELS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 2, PANELS = 6;
#else
constexpr int LANES = 4, ROWS = 4, PANELS = 2;
#endif
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
constexpr float LEAST = -std::numeric_limits<float>::infinity();
typedef int32_t Whole __attribute__((vector_size(LANES * sizeof(int32_t))));

inline Lanes load(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Lanes v) { std::memcpy(p, &v, sizeof v); }

inline Lanes all(float x) { return Lanes{} + x; }

// The sum of the lanes, by halves.
inline float sum(Lanes v) {
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}

// a * b + c, rounded once where the processor can.
inline Lanes fused(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX__) && defined(__FMA__)
  return (Lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_FEATURE_FMA) && defined(__ARM_NEON)
  return (Lanes)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// e^x to a few units in the last place: 2^n e^r with r in +-ln 2 / 2, e^r by its Taylor polynomial.
inline Lanes exponential(Lanes x) {
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction
  x = x < -87.0f ? all(-87.0f) : x;
  x = x > 88.0f ? all(88.0f) : x;
  const Lanes shifted = fused(x, all(1.44269504f), all(ROUND));
  const Lanes n = shifted - ROUND;
  const Lanes r = fused(n, all(2.12194440e-4f), fused(n, all(-0.693359375f), x));
  Lanes e = fused(r, all(1.0f / 5040), all(1.0f / 720));
  e = fused(e, r, all(1.0f / 120));
  e = fused(e, r, all(1.0f / 24));
  e = fused(e, r, all(1.0f / 6));
  e = fused(e, r, all(0.5f));
  e = fused(e, r, all(1.0f));
  e = fused(e, r, all(1.0f));
  Whole bits;
  bits = (__builtin_convertvector(n, Whole) + 127) << 23;
  Lanes power;
  std::memcpy(&power, &bits, sizeof power);
  return e * power;
}

// Softmax of `count` scores with its sum still to be divided by: e^(x - the greatest), and their sum. The scores' room is a
// multiple of LANES.
inline float soften(float* scores, int count) {
  for (int j = count; j % LANES; ++j) scores[j] = LEAST;
  Lanes most = all(LEAST);
  for (int j = 0; j < count; j += LANES) most = load(scores + j) > most ? load(scores + j) : most;
  float greatest = LEAST;
  for (int i = 0; i < LANES; ++i) greatest = most[i] > greatest ? most[i] : greatest;
  Lanes total{};
  for (int j = 0; j < count; j += LANES) {
    Lanes weight = exponential(load(scores + j) - greatest);
    if (j + LANES > count)
      for (int lane = count - j; lane < LANES; ++lane) weight[lane] = 0;
    store(scores + j, weight);
    total += weight;
  }
  return sum(total);
}

template <int R, int C>
void block(const float* x, int width, const float* matrix, const float* bias, float* out, int outputs, bool add) {
  Lanes total[R][C] = {};
  for (int k = 0; k < width; ++k) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Lanes w = load(matrix + (c * width + k) * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) total[r][c] = fused(all(x[r * width + k]), w, total[r][c]);
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

// As many panels as fit at a time, then the rest.
template <int C>
void columns(int count, const float* x, int width, const float* matrix, const float* bias, float* out, int outputs,
             int column, bool add) {
  for (; column + C * LANES <= outputs; column += C * LANES)
    rows<ROWS, C>(count, x, width, matrix + column * width, bias ? bias + column : nullptr, out + column, outputs, add);
  if constexpr (C > 1) columns<C / 2>(count, x, width, matrix, bias, out, outputs, column, add);
}

// out [count, outputs] = x [count, width] times the packed matrix [outputs / LANES, width, LANES], plus bias; or added to
// what is there.
inline void multiply(int count, const float* x, int width, const float* matrix, const float* bias, float* out, int outputs,
                     bool add = false) {
  columns<PANELS>(count, x, width, matrix, bias, out, outputs, 0, add);
}

// SwiGLU: the first half of each row times SiLU of the second. opened [count, 2 * inner], out [count, inner].
inline void activate(int count, const float* opened, int inner, float* out) {
  for (int t = 0; t < count; ++t, opened += 2 * inner, out += inner)
    for (int i = 0; i < inner; i += LANES) {
      const Lanes gate = load(opened + inner + i);
      store(out + i, load(opened + i) * gate / (1.0f + exponential(-gate)));
    }
}

}  // namespace simd
