#include "kernels/cuda/attention/level_bytes.h"

#include <algorithm>
#include <cmath>

namespace thermocline {
namespace {

// What codes are off by in steps of a size, beside what they stand for: the root of the mean square
// over coordinates, which are nearly N(0, 1).
double Error(const Codebook& book, double step) {
  const auto below = [](double x) { return 0.5 * (1 + std::erf(x / std::sqrt(2.0))); };
  double error = 0;
  double square = 0;
  for (int i = book.num_levels / 2; i < book.num_levels; ++i) {
    const double level = book.levels[i];
    const double end = i + 1 < book.num_levels ? below(book.thresholds[i]) : 1;
    const double share = end - below(book.thresholds[i - 1]);
    error += share * std::pow(std::nearbyint(level / step) * step - level, 2);
    square += share * level * level;
  }
  return std::sqrt(error / square);
}

}  // namespace

LevelBytes LevelBytesOf(const Codebook& book) {
  const double largest = book.levels[book.num_levels - 1];
  double best = largest / 127;
  double least = Error(book, best);
  // Steps of which the largest level has 32 to 127.4, and so rounds to a byte.
  constexpr int kTries = 20000;
  for (int i = 0; i <= kTries; ++i) {
    const double step = largest / (127.4 - 95.4 * i / kTries);
    if (const double error = Error(book, step); error < least) {
      least = error;
      best = step;
    }
  }
  LevelBytes bytes;
  bytes.step = static_cast<float>(best);
  for (int i = 0; i < 16; ++i) {
    const double steps = book.levels[i % book.num_levels] / best;
    const auto whole = static_cast<int>(std::nearbyint(steps));
    const auto rest = static_cast<int>(std::nearbyint((steps - whole) * 128));
    bytes.words[i / 4] |= (static_cast<uint32_t>(whole) & 0xffU) << 8 * (i % 4);
    bytes.rest[i / 4] |= (static_cast<uint32_t>(rest) & 0xffU) << 8 * (i % 4);
  }
  return bytes;
}

}  // namespace thermocline
