// MolmoAct 2's action expert for small models on a processor: all steps from noise to actions are one call, in float32 and in
// one thread.
//
// The sums are those of engine/molmoact2/expert.py, in another order; the engine compares the two before it uses this one.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../cpu_room.h"
#include "../cpu_simd.h"

extern "C" {

// Matrices are packed (cpu_simd.h); that of the MLP holds the values' rows, then the gate's.
struct ExpertBlock {
  const float *project, *project_bias, *output, *output_bias;  // self-attention
  const float *query, *query_bias, *read, *read_bias;          // attention to the context
  const float *up_gate, *up_gate_bias, *down, *down_bias;
};

struct Expert {
  int32_t layers, width, heads, head, inner, actions;
  float epsilon;
  const ExpertBlock* block;
  const float *embed, *embed_bias, *last, *last_bias;
};

// What a chunk is sampled with. blocks [layers, steps, 9, width] and last [steps, 2, width]: shifts, scales and gates.
// cosines and sines [rows, head], the first half of the sines negative. keys, values [layers, heads, tokens, head].
struct Flow {
  int32_t rows, dimensions, steps, tokens;
  const float *blocks, *last, *cosines, *sines, *keys, *values;
};
}

namespace {

using namespace simd;

// x / its root mean square, of `count` rows that are `stride` apart, in place.
void normalise(int count, float* x, int width, int stride, float epsilon) {
  for (int t = 0; t < count; ++t, x += stride) {
    Lanes squares{};
    for (int i = 0; i < width; i += LANES) squares = fused(load(x + i), load(x + i), squares);
    const Lanes scale = all(1.0f / std::sqrt(sum(squares) / width + epsilon));
    for (int i = 0; i < width; i += LANES) store(x + i, load(x + i) * scale);
  }
}

// Keys and values of one head, as matrices in panels: scores and weighted values are products with them.
struct Packed {
  float *keys, *values;
  int count;
};

Packed room_for(Room& room, int count, int head) {
  return {room.floats((int64_t)padded(count) * head), room.floats((int64_t)count * head), count};
}

void pack(const Packed& to, const float* key, const float* value, int stride, int head) {
  for (int p = 0; p < padded(to.count); ++p) {
    float* column = to.keys + p / LANES * LANES * head + p % LANES;
    for (int d = 0; d < head; ++d) column[d * LANES] = p < to.count ? key[(int64_t)p * stride + d] : 0.0f;
  }
  for (int p = 0; p < to.count; ++p)
    for (int d = 0; d < head; d += LANES)
      store(to.values + (int64_t)d * to.count + p * LANES, load(value + (int64_t)p * stride + d));
}

class Sampler {
 public:
  Sampler(const Expert& expert, const Flow& flow, Room& room) : e_(expert), f_(flow) {
    const int longest = padded(std::max(f_.rows, f_.tokens));
    x_ = room.floats((int64_t)f_.rows * e_.width);
    normed_ = room.floats((int64_t)f_.rows * e_.width);
    projected_ = room.floats((int64_t)f_.rows * 3 * e_.width);
    read_ = room.floats((int64_t)f_.rows * e_.width);
    added_ = room.floats((int64_t)f_.rows * e_.width);
    opened_ = room.floats((int64_t)f_.rows * 2 * e_.inner);
    activated_ = room.floats((int64_t)f_.rows * e_.inner);
    velocity_ = room.floats((int64_t)f_.rows * e_.actions);
    queries_ = room.floats((int64_t)f_.rows * e_.head);
    scores_ = room.floats((int64_t)f_.rows * longest);
    weights_ = room.floats((int64_t)f_.rows * longest);
    wholes_ = room.floats(f_.rows);
    mixed_ = room.floats((int64_t)f_.rows * e_.head);
    own_ = room_for(room, f_.rows, e_.head);
    for (int i = 0; i < e_.layers * e_.heads; ++i) {
      const int64_t at = (int64_t)i * f_.tokens * e_.head;
      context_.push_back(room_for(room, f_.tokens, e_.head));
      pack(context_.back(), f_.keys + at, f_.values + at, e_.head, e_.head);
    }
  }

  // One Euler step of actions [rows, actions].
  void step(int number, float* actions) {
    multiply(f_.rows, actions, e_.actions, e_.embed, e_.embed_bias, x_, e_.width);
    for (int layer = 0; layer < e_.layers; ++layer)
      run(layer, f_.blocks + ((int64_t)layer * f_.steps + number) * 9 * e_.width);
    const float* shift = f_.last + (int64_t)number * 2 * e_.width;
    modulate(shift, shift + e_.width);
    multiply(f_.rows, normed_, e_.width, e_.last, e_.last_bias, velocity_, e_.actions);
    for (int t = 0; t < f_.rows; ++t)
      for (int d = 0; d < f_.dimensions; ++d)
        actions[t * e_.actions + d] += velocity_[t * e_.actions + d] / f_.steps;
  }

 private:
  void run(int layer, const float* modulation) {
    const ExpertBlock& block = e_.block[layer];
    const auto chunk = [&](int i) { return modulation + i * e_.width; };
    modulate(chunk(0), chunk(1));
    multiply(f_.rows, normed_, e_.width, block.project, block.project_bias, projected_, 3 * e_.width);
    for (int h = 0; h < e_.heads; ++h) attend_to_itself(h);
    add(block.output, block.output_bias, read_, e_.width, chunk(2));
    modulate(chunk(3), chunk(4));
    multiply(f_.rows, normed_, e_.width, block.query, block.query_bias, projected_, e_.width);
    for (int h = 0; h < e_.heads; ++h) {
      normalise(f_.rows, projected_ + h * e_.head, e_.head, e_.width, e_.epsilon);
      attend(projected_ + h * e_.head, e_.width, context_[layer * e_.heads + h], h);
    }
    add(block.read, block.read_bias, read_, e_.width, chunk(5));
    modulate(chunk(6), chunk(7));
    multiply(f_.rows, normed_, e_.width, block.up_gate, block.up_gate_bias, opened_, 2 * e_.inner);
    activate(f_.rows, opened_, e_.inner, activated_);
    add(block.down, block.down_bias, activated_, e_.inner, chunk(8));
  }

  // The norm of x_, times (1 + scale), plus shift.
  void modulate(const float* shift, const float* scale) {
    std::memcpy(normed_, x_, (int64_t)f_.rows * e_.width * sizeof(float));
    normalise(f_.rows, normed_, e_.width, e_.width, e_.epsilon);
    for (int t = 0; t < f_.rows; ++t)
      for (int i = 0; i < e_.width; i += LANES) {
        float* at = normed_ + t * e_.width + i;
        store(at, fused(load(at), load(scale + i) + 1.0f, load(shift + i)));
      }
  }

  // x_ plus gate times a product.
  void add(const float* matrix, const float* bias, const float* from, int width, const float* gate) {
    multiply(f_.rows, from, width, matrix, bias, added_, e_.width);
    for (int t = 0; t < f_.rows; ++t)
      for (int i = 0; i < e_.width; i += LANES) {
        float* at = x_ + t * e_.width + i;
        store(at, fused(load(gate + i), load(added_ + t * e_.width + i), load(at)));
      }
  }

  void attend_to_itself(int h) {
    float *query = projected_ + h * e_.head, *key = query + e_.width;
    for (float* part : {query, key}) {
      normalise(f_.rows, part, e_.head, 3 * e_.width, e_.epsilon);
      for (int t = 0; t < f_.rows; ++t) rotate(part + t * 3 * e_.width, t * e_.head);
    }
    pack(own_, key, key + e_.width, 3 * e_.width, e_.head);
    attend(query, 3 * e_.width, own_, h);
  }

  void rotate(float* x, int at) {
    const int half = e_.head / 2;
    for (int d = 0; d < half; ++d) {
      const float first = x[d], second = x[d + half];
      x[d] = first * f_.cosines[at + d] + second * f_.sines[at + d];
      x[d + half] = second * f_.cosines[at + d + half] + first * f_.sines[at + d + half];
    }
  }

  // What all rows read with head h.
  void attend(const float* query, int stride, const Packed& from, int h) {
    const float scale = 1.0f / std::sqrt((float)e_.head);
    for (int t = 0; t < f_.rows; ++t)
      for (int d = 0; d < e_.head; d += LANES) store(queries_ + t * e_.head + d, load(query + t * stride + d) * scale);
    const int wide = padded(from.count);
    multiply(f_.rows, queries_, e_.head, from.keys, nullptr, scores_, wide);
    for (int t = 0; t < f_.rows; ++t) {
      wholes_[t] = soften(scores_ + t * wide, from.count);
      std::memcpy(weights_ + t * from.count, scores_ + t * wide, from.count * sizeof(float));
    }
    multiply(f_.rows, weights_, from.count, from.values, nullptr, mixed_, e_.head);
    for (int t = 0; t < f_.rows; ++t)
      for (int d = 0; d < e_.head; d += LANES)
        store(read_ + t * e_.width + h * e_.head + d, load(mixed_ + t * e_.head + d) / wholes_[t]);
  }

  const Expert& e_;
  const Flow& f_;
  float *x_, *normed_, *projected_, *read_, *added_, *opened_, *activated_, *velocity_;
  float *queries_, *scores_, *weights_, *wholes_, *mixed_;
  Packed own_;
  std::vector<Packed> context_;
};

}  // namespace

// actions [rows, actions]: noise in, of which the dimensions behind `dimensions` are zero; actions out.
extern "C" void molmoact_sample(const Expert* expert, const Flow* flow, float* actions) {
  thread_local Room room;
  room.clear();
  Sampler sampler(*expert, *flow, room);
  for (int step = 0; step < flow->steps; ++step) sampler.step(step, actions);
}
