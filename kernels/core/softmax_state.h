#pragma once

#include "kernels/base/hd.h"

// The softmax of scores that come in parts, pages and splits of them (arXiv 1805.02867). A part's
// state is its largest score and the sum of e^(score - max), and beside them, if there are values,
// their sum weighted likewise. Two states merge to the state of both parts, whatever order the
// parts came in; with no score the state is max -infinity and sum 0.
//
// `exp` is the caller's own, so that kernels of any instruction set use it with theirs.

namespace thermocline {

struct SoftmaxMerge {
  float max;         // of both
  float to_scale;    // for the sums of the state that is merged into
  float from_scale;  // for those of the one that is merged
};

// Needs a score in `from`.
template <typename Exp>
HD inline SoftmaxMerge MergeSoftmax(float to_max, float from_max, const Exp& exp) {
  const float max = from_max > to_max ? from_max : to_max;
  const bool is_first = to_max == -__builtin_inff();
  return {.max = max,
          .to_scale = is_first ? 0.0F : exp(to_max - max),
          .from_scale = exp(from_max - max)};
}

}  // namespace thermocline
