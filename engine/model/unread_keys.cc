#include "engine/model/unread_keys.h"

#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/metadata.h"
#include "kernels/base/printable.h"

namespace thermocline {
namespace {

// Which value means that a key changes nothing.
enum class Off {
  kZero,
  kZeroOrOne,     // factors: llama.cpp writes 0 for "none"
  kTrue,          // flags of what is always so here
  kWholeContext,  // windows: 0, or no shorter than the context
  kHeadScale,     // 0, or 1 / sqrt(head_dim)
  kSilu,          // the activation's name
};

struct KnownKey {
  std::string_view name;  // behind "llama."
  Off off = Off::kZero;
};

constexpr KnownKey kKeys[] = {
    {"attn_logit_softcapping"},
    {"final_logit_softcapping"},
    {"router_logit_softcapping"},
    {"logit_scale", Off::kZeroOrOne},
    {"residual_scale", Off::kZeroOrOne},
    {"embedding_scale", Off::kZeroOrOne},
    {"use_parallel_residual"},
    {"pooling_type"},
    {"nextn_predict_layers"},
    {"full_attention_interval"},
    {"no_rope_layer_interval"},
    {"no_rope_layer_step"},
    {"expert_count"},
    {"expert_used_count"},
    {"expert_shared_count"},
    {"hidden_act", Off::kSilu},
    {"hidden_activation", Off::kSilu},
    {"swiglu_clamp_exp"},
    {"swiglu_clamp_shexp"},
    {"swin_norm"},
    {"rescale_every_n_layers"},
    {"token_shift_count"},
    {"time_mix_extra_dim"},
    {"time_decay_extra_dim"},
    {"activation_sparsity_scale"},
    {"embedding_length_per_layer_input"},
    {"n_deepstack_layers"},
    {"altup.num_inputs"},
    {"ssm.conv_kernel"},
    {"ssm.inner_size"},
    {"ssm.state_size"},
    {"ssm.time_step_rank"},
    {"ssm.group_count"},
    {"wkv.head_size"},
    {"kda.head_dim"},
    {"shortconv.l_cache"},
    {"posnet.block_count"},
    {"convnext.block_count"},
    {"classifier.output_labels"},
    {"attention.causal", Off::kTrue},
    {"attention.scale", Off::kHeadScale},
    {"attention.output_scale", Off::kZeroOrOne},
    {"attention.value_scale", Off::kZeroOrOne},
    {"attention.sliding_window", Off::kWholeContext},
    {"attention.chunk_size", Off::kWholeContext},
    {"attention.max_alibi_bias"},
    {"attention.clamp_kqv"},
    {"attention.shared_kv_layers"},
    {"attention.temperature_length"},
    {"attention.temperature_scale"},
    {"attention.relative_buckets_count"},
    {"attention.q_lora_rank"},
    {"attention.kv_lora_rank"},
    {"attention.key_length_mla"},
    {"attention.value_length_mla"},
    {"attention.decay_lora_rank"},
    {"attention.iclr_lora_rank"},
    {"attention.gate_lora_rank"},
    {"attention.value_residual_mix_lora_rank"},
    {"attention.group_norm_epsilon"},
    {"attention.group_norm_groups"},
    {"attention.indexer.head_count"},
    {"attention.indexer.top_k"},
    {"rope.dimension_sections"},
    {"rope.scaling.yarn_log_multiplier"},
    {"rope.scaling.alpha", Off::kZeroOrOne},
};

// The numbers of a key, a boolean being 0 or 1; nothing for strings.
std::optional<std::vector<double>> ReadNumbers(const Checkpoint& checkpoint,
                                               const std::string& key) {
  if (const Result<double> value = checkpoint.ReadFloat(key); value.ok()) {
    return std::vector<double>{*value};
  }
  if (const Result<int64_t> value = checkpoint.ReadInt(key); value.ok()) {
    return std::vector<double>{static_cast<double>(*value)};
  }
  if (const Result<bool> value = checkpoint.ReadBool(key); value.ok()) {
    return std::vector<double>{*value ? 1.0 : 0.0};
  }
  if (const Result<std::vector<double>> values = checkpoint.ReadFloats(key); values.ok()) {
    return *values;
  }
  if (const Result<std::vector<int64_t>> values = checkpoint.ReadInts(key); values.ok()) {
    return std::vector<double>(values->begin(), values->end());
  }
  return std::nullopt;
}

bool IsOff(Off off, double value, const ModelConfig& config) {
  switch (off) {
    case Off::kZero:
      return value == 0;
    case Off::kZeroOrOne:
      return value == 0 || value == 1;
    case Off::kTrue:
      return value == 1;
    case Off::kWholeContext:
      return value == 0 || value >= config.context_length;
    case Off::kHeadScale:
      return value == 0 || std::abs(value * std::sqrt(config.head_dim) - 1) < 1e-6;
    case Off::kSilu:
      return false;
  }
  return false;
}

Status CheckKey(const Checkpoint& checkpoint, const ModelConfig& config, const KnownKey& known,
                const std::string& key) {
  if (const Result<std::string> text = checkpoint.ReadString(key); text.ok()) {
    const bool is_off =
        text->empty() || *text == "none" ||
        (known.off == Off::kSilu && (*text == "silu" || *text == "swish" || *text == "swiglu"));
    return is_off ? Status()
                  : Unimplemented("{}: \"{}\" is not supported", key, Printable(*text, 40));
  }
  const std::optional<std::vector<double>> numbers = ReadNumbers(checkpoint, key);
  if (!numbers) {
    return Unimplemented("{}: is not supported", key);
  }
  for (const double number : *numbers) {
    if (!IsOff(known.off, number, config)) {
      return Unimplemented("{}: {} is not supported in a \"{}\" model", key, number,
                           config.architecture);
    }
  }
  return {};
}

}  // namespace

Status CheckUnreadKeys(const Checkpoint& checkpoint, const ModelConfig& config) {
  for (const KnownKey& known : kKeys) {
    const std::string key = fmt::format("{}.{}", config.architecture, known.name);
    if (HasKey(checkpoint, key)) {
      RETURN_IF_ERROR(CheckKey(checkpoint, config, known, key));
    }
  }
  return {};
}

}  // namespace thermocline
