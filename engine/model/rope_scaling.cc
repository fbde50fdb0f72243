#include "engine/model/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "engine/model/metadata.h"
#include "kernels/base/printable.h"

namespace thermocline {
namespace {

struct Yarn {
  double factor = 1;
  double original_context = 0;
  double beta_fast = 32;
  double beta_slow = 1;
};

// The pair whose wave turns `rotations` times within the original context (paper, section 3.2).
double CorrectionPair(const ModelConfig& config, double base, double context, double rotations) {
  return config.rope_dim * std::log(context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(base));
}

// Fast waves keep their frequency, slow ones are interpolated, those between are blended.
void ApplyYarn(const Yarn& yarn, double base, ModelConfig& config) {
  const double last = config.rope_dim - 1;
  const double low = std::max(
      0.0, std::floor(CorrectionPair(config, base, yarn.original_context, yarn.beta_fast)));
  double high = std::min(
      last, std::ceil(CorrectionPair(config, base, yarn.original_context, yarn.beta_slow)));
  high = std::max(high, low + 0.001);
  for (size_t i = 0; i < config.rope_frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double frequency = config.rope_frequencies[i];
    config.rope_frequencies[i] =
        static_cast<float>(frequency / yarn.factor * ramp + frequency * (1 - ramp));
  }
  config.rope_magnitude = static_cast<float>(0.1 * std::log(yarn.factor) + 1);
}

// Llama 3 files: each frequency is divided by its own factor.
Status ApplyFrequencyFactors(const Checkpoint& checkpoint, ModelConfig& config) {
  const CheckpointTensor* tensor = checkpoint.FindTensor(kRopeFactorsName);
  if (tensor == nullptr) {
    return {};
  }
  const auto num_pairs = static_cast<int64_t>(config.rope_frequencies.size());
  if (tensor->type != WeightType::kF32 || tensor->dims != std::vector<int64_t>{num_pairs}) {
    return InvalidArgument("{}: must be {} float32 factors", kRopeFactorsName, num_pairs);
  }
  std::vector<float> factors(config.rope_frequencies.size());
  Dequantize(tensor->type, tensor->data, num_pairs, factors.data());
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!std::isfinite(factors[i]) || factors[i] <= 0) {
      return InvalidArgument("{}: factor {} is {}", kRopeFactorsName, i, factors[i]);
    }
    config.rope_frequencies[i] /= factors[i];
  }
  return {};
}

Status ReadFactor(const Checkpoint& checkpoint, const std::string& key, double& factor) {
  RETURN_IF_ERROR(ReadOptionalFloat(checkpoint, key, factor));
  if (!std::isfinite(factor) || factor <= 0 || factor > 1e6) {
    return InvalidArgument("{}: {} is no scaling factor", key, factor);
  }
  return {};
}

// What multiplies cos and sin beside YaRN's own factor, and whether YaRN is wholly in force.
Status ApplyMagnitude(const Checkpoint& checkpoint, const std::string& prefix, bool is_yarn,
                      ModelConfig& config) {
  for (const char* name : {"attn_factor", "yarn_attn_factor"}) {
    double factor = 1;
    RETURN_IF_ERROR(ReadFactor(checkpoint, prefix + name, factor));
    config.rope_magnitude *= static_cast<float>(factor);
  }
  double extrapolation = -1;  // negative: by the type
  RETURN_IF_ERROR(ReadOptionalFloat(checkpoint, prefix + "yarn_ext_factor", extrapolation));
  if (!(extrapolation < 0) && extrapolation != (is_yarn ? 1 : 0)) {
    return Unimplemented("{}yarn_ext_factor: {} is not supported", prefix, extrapolation);
  }
  return {};
}

}  // namespace

Status ReadRopeScaling(const Checkpoint& checkpoint, ModelConfig& config) {
  const std::string prefix = config.architecture + ".rope.";
  double base = 10000;
  RETURN_IF_ERROR(ReadOptionalFloat(checkpoint, prefix + "freq_base", base));
  if (!std::isfinite(base) || base <= 1 || base > 1e12) {
    return InvalidArgument("{}freq_base: {} is not a base of frequencies", prefix, base);
  }
  for (int i = 0; i < config.rope_dim / 2; ++i) {
    config.rope_frequencies.push_back(
        static_cast<float>(std::pow(base, -2.0 * i / config.rope_dim)));
  }

  std::string type = "linear";  // what a factor without a type means
  RETURN_IF_ERROR(ReadOptionalString(checkpoint, prefix + "scaling.type", type));
  double factor = 1;
  RETURN_IF_ERROR(ReadFactor(checkpoint, prefix + "scale_linear", factor));
  RETURN_IF_ERROR(ReadFactor(checkpoint, prefix + "scaling.factor", factor));

  if (type == "linear") {
    for (float& frequency : config.rope_frequencies) {
      frequency = static_cast<float>(frequency / factor);
    }
  } else if (type == "yarn") {
    Yarn yarn{.factor = factor};
    RETURN_IF_ERROR(
        ReadOptionalFloat(checkpoint, prefix + "scaling.yarn_beta_fast", yarn.beta_fast));
    RETURN_IF_ERROR(
        ReadOptionalFloat(checkpoint, prefix + "scaling.yarn_beta_slow", yarn.beta_slow));
    int64_t context = config.context_length;
    RETURN_IF_ERROR(ReadOptionalInt(checkpoint, prefix + "scaling.original_context_length", 1,
                                    int64_t{1} << 30, context));
    yarn.original_context = static_cast<double>(context);
    if (!(yarn.beta_fast > 0) || !(yarn.beta_slow > 0) || yarn.beta_fast > 1e6 ||
        yarn.beta_slow > 1e6) {
      return InvalidArgument("{}scaling.yarn_beta_fast, yarn_beta_slow: must be positive", prefix);
    }
    ApplyYarn(yarn, base, config);
  } else if (type != "none") {
    return Unimplemented("{}scaling.type: \"{}\" is not supported (there are none, linear, yarn)",
                         prefix, Printable(type, 40));
  }
  RETURN_IF_ERROR(ApplyMagnitude(checkpoint, prefix + "scaling.", type == "yarn", config));
  return ApplyFrequencyFactors(checkpoint, config);
}

}  // namespace thermocline
