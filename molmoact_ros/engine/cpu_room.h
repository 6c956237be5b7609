// Room for the numbers of one call of a CPU kernel, kept for the next one.

#pragma once

#include <cstdint>
#include <vector>

#include "cpu_simd.h"

namespace simd {

inline int padded(int count) { return (count + LANES - 1) / LANES * LANES; }

class Room {
 public:
  float* floats(int64_t count) {
    if (used_ == rooms_.size()) rooms_.emplace_back();
    std::vector<Line>& room = rooms_[used_++];
    const size_t lines = count * sizeof(float) / sizeof(Line) + 1;
    if (room.size() < lines) room.resize(lines);
    return room.data()->floats;
  }
  void clear() { used_ = 0; }

 private:
  struct alignas(64) Line {  // of the processor's cache
    float floats[16];
  };
  std::vector<std::vector<Line>> rooms_;
  size_t used_ = 0;
};

}  // namespace simd
