#pragma once

#include <cstddef>
#include <span>

namespace thermocline {

// Passes over the scores of a whole vocabulary, which a step makes for each sequence on one thread:
// in independent lanes, so that compilers use vectors.

struct BestScore {
  float score = 0;
  size_t index = 0;     // the lowest of equals
  bool finite = false;  // false: nothing is above -infinity, or one is NaN or +infinity
};
BestScore FindBest(std::span<const float> scores);

// weights [scores.size()] = e^((score - max) / temperature), within 2 units in the last place and
// exactly 1 where score is max; 0 below 1e-38. No score is above max.
void ExpOfScores(std::span<const float> scores, float max, float temperature,
                 std::span<float> weights);

double SumOfWeights(std::span<const float> weights);

// Of e^(score - max), each as ExpOfScores gives it; keeps nothing.
double SumOfExps(std::span<const float> scores, float max);

// The first index at which the running sum of weights passes `part` of their total; some index of
// a positive weight where rounding leaves none. Needs one such.
size_t IndexAtPart(std::span<const float> weights, double part);

}  // namespace thermocline
