// Images to a tower's patches: bilinear without antialiasing, rounded to bytes, normalised. Bit for bit the numbers of
// engine/model/image_processor.py (stretch, round, normalise, patches).

#include <cmath>
#include <cstdint>
#include <vector>

extern "C" {

// Along one axis: of each output pixel the two input pixels that it lies between, and the second one's share.
struct Axis {
  int32_t length;
  const int64_t *first, *second;
  const float* share;
};
}

namespace {

// (1 - share) * first + share * second with one rounding of the first product and the sum.
inline float mix(float first, float second, float share) {
  return (float)((double)first * (1.0f - share) + (double)(second * share));
}

}  // namespace

// image uint8 [rows, columns, 3] to out float32 [patches, patch * patch * 3]; values: float32 [256], of each byte.
extern "C" void molmoact_patches(const uint8_t* image, int32_t columns, const Axis* down, const Axis* across, int32_t patch,
                                 const float* values, float* out) {
  const int width = across->length, many = width / patch, size = patch * patch * 3;
  thread_local std::vector<float> lines[2];
  thread_local std::vector<float> mixed;
  int64_t held[2] = {-1, -1};
  for (auto& line : lines) line.resize(3 * width);
  mixed.resize(3 * width);
  const auto line_of = [&](int64_t row) -> const float* {
    const int at = row & 1;  // the two rows of a mix differ by one, or are the same
    if (held[at] != row) {
      const uint8_t* pixels = image + row * columns * 3;
      for (int x = 0; x < width; ++x)
        for (int c = 0; c < 3; ++c)
          lines[at][3 * x + c] = mix(pixels[across->first[x] * 3 + c], pixels[across->second[x] * 3 + c], across->share[x]);
      held[at] = row;
    }
    return lines[at].data();
  };
  for (int y = 0; y < down->length; ++y) {
    const float *top = line_of(down->first[y]), *bottom = line_of(down->second[y]), share = down->share[y];
    for (int i = 0; i < 3 * width; ++i) mixed[i] = mix(top[i], bottom[i], share);
    float* row = out + (int64_t)(y / patch) * many * size + y % patch * patch * 3;
    for (int p = 0; p < many; ++p)
      for (int i = 0; i < patch * 3; ++i)
        row[(int64_t)p * size + i] = values[(int)std::nearbyint(mixed[p * patch * 3 + i])];
  }
}
