#include "server/api/refused_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "server/http/json.h"

namespace thermocline {
namespace {

// One field that other servers honour and this one does not.
struct RefusedField {
  std::string_view name;
  FieldScope scope = FieldScope::kAll;
  std::string_view harmless = "[]";  // JSON: the values that ask for what happens anyway
  bool empty_is_harmless = true;     // so do false, "", [], {} and an object of nulls
  // Separated by spaces: without these (given, and all harmless) it changes nothing.
  std::string_view switches = {};
  std::string_view hint = {};
};

constexpr std::array kRefusedFields = {
    RefusedField{.name = "adapter_id"},
    RefusedField{.name = "adaptive_decay", .harmless = R"([0.9])", .switches = "adaptive_target"},
    RefusedField{.name = "adaptive_target", .harmless = R"([-1])"},
    RefusedField{.name = "add_bos_token",
                 .scope = FieldScope::kPrompt,
                 .harmless = R"([true])",
                 .empty_is_harmless = false,
                 .hint = "see `add_special_tokens`"},
    RefusedField{.name = "add_generation_prompt",
                 .scope = FieldScope::kPrompt,
                 .harmless = R"([true])",
                 .empty_is_harmless = false,
                 .hint = "it is for chats"},
    RefusedField{.name = "add_special",
                 .scope = FieldScope::kPrompt,
                 .harmless = R"([true])",
                 .empty_is_harmless = false,
                 .hint = "see `add_special_tokens`"},
    RefusedField{.name = "allowed_token_ids"},
    RefusedField{.name = "audio"},
    RefusedField{.name = "bad_words"},
    RefusedField{.name = "ban_eos_token"},
    RefusedField{.name = "banned_strings"},
    RefusedField{.name = "banned_tokens"},
    RefusedField{.name = "cache_prompt",
                 .harmless = R"([true])",
                 .empty_is_harmless = false,
                 .hint = "a `cache_salt` of its own shares no pages"},
    RefusedField{.name = "cfg_scale", .harmless = R"([1])"},
    RefusedField{.name = "chat_template", .scope = FieldScope::kPrompt},
    RefusedField{.name = "chat_template_kwargs",
                 .scope = FieldScope::kPrompt,
                 .hint = "without `messages` there is no template to give them to"},
    RefusedField{.name = "content", .scope = FieldScope::kPrompt, .hint = "see `prompt`"},
    RefusedField{
        .name = "continue_final_message", .scope = FieldScope::kPrompt, .hint = "it is for chats"},
    RefusedField{.name = "conversation", .scope = FieldScope::kPrompt},
    RefusedField{.name = "custom_logit_processor"},
    RefusedField{.name = "custom_params"},
    RefusedField{.name = "custom_token_bans"},
    RefusedField{.name = "decoder_input_details", .hint = "see `prompt_logprobs`"},
    RefusedField{.name = "details"},
    RefusedField{.name = "do_sample",
                 .harmless = R"([true])",
                 .empty_is_harmless = false,
                 .hint = "see `temperature`"},
    RefusedField{.name = "documents",
                 .scope = FieldScope::kPrompt,
                 .hint = "put them into `chat_template_kwargs`"},
    RefusedField{.name = "dry_allowed_length", .harmless = R"([2])", .switches = "dry_multiplier"},
    RefusedField{.name = "dry_base", .harmless = R"([1.75])", .switches = "dry_multiplier"},
    RefusedField{.name = "dry_multiplier", .harmless = R"([0])"},
    RefusedField{
        .name = "dry_penalty_last_n", .harmless = R"([-1,0])", .switches = "dry_multiplier"},
    RefusedField{.name = "dry_sequence_breakers",
                 .harmless = R"([["\n",":","\"","*"]])",
                 .switches = "dry_multiplier"},
    RefusedField{.name = "dynamic_temperature"},
    RefusedField{.name = "dynatemp_exponent", .harmless = R"([1])", .switches = "dynatemp_range"},
    RefusedField{
        .name = "dynatemp_high", .empty_is_harmless = false, .switches = "dynamic_temperature"},
    RefusedField{
        .name = "dynatemp_low", .empty_is_harmless = false, .switches = "dynamic_temperature"},
    RefusedField{.name = "dynatemp_range", .harmless = R"([0])"},
    RefusedField{.name = "early_stopping"},
    RefusedField{.name = "ebnf"},
    RefusedField{.name = "echo", .hint = "it is for completions"},
    RefusedField{.name = "enable_thinking",
                 .scope = FieldScope::kPrompt,
                 .hint = "put it into `chat_template_kwargs`"},
    RefusedField{.name = "epsilon_cutoff", .harmless = R"([0])"},
    RefusedField{.name = "eta_cutoff", .harmless = R"([0])"},
    RefusedField{.name = "format", .hint = "see `response_format`"},
    RefusedField{.name = "function_call",
                 .scope = FieldScope::kPrompt,
                 .harmless = R"(["none","auto"])",
                 .empty_is_harmless = false,
                 .hint = "it is for chats"},
    RefusedField{.name = "functions"},
    RefusedField{.name = "grammar"},
    RefusedField{.name = "grammar_lazy"},
    RefusedField{.name = "grammar_triggers"},
    RefusedField{.name = "guidance_scale", .harmless = R"([1])"},
    RefusedField{.name = "guided_choice"},
    RefusedField{.name = "guided_grammar"},
    RefusedField{.name = "guided_json", .harmless = R"([false,""])", .empty_is_harmless = false},
    RefusedField{.name = "guided_json_object"},
    RefusedField{.name = "guided_regex"},
    RefusedField{.name = "id_slot", .harmless = R"([-1])"},
    RefusedField{.name = "image_data", .scope = FieldScope::kPrompt},
    RefusedField{.name = "images", .scope = FieldScope::kPrompt},
    RefusedField{.name = "include_reasoning", .harmless = R"([true])", .empty_is_harmless = false},
    RefusedField{
        .name = "input", .scope = FieldScope::kPrompt, .hint = "see `messages` and `prompt`"},
    RefusedField{.name = "input_extra", .scope = FieldScope::kPrompt},
    RefusedField{.name = "input_prefix", .scope = FieldScope::kPrompt},
    RefusedField{.name = "input_suffix", .scope = FieldScope::kPrompt},
    RefusedField{.name = "instructions",
                 .scope = FieldScope::kPrompt,
                 .hint = "send a message of role `system`"},
    RefusedField{.name = "json_schema", .harmless = R"([false,""])", .empty_is_harmless = false},
    RefusedField{.name = "kv_transfer_params"},
    RefusedField{.name = "length_penalty", .harmless = R"([1,0])", .switches = "use_beam_search"},
    RefusedField{.name = "logits_processors"},
    RefusedField{.name = "logprob_token_ids"},
    RefusedField{.name = "lora"},
    RefusedField{.name = "lora_path"},
    RefusedField{.name = "lora_request"},
    RefusedField{
        .name = "max_output_tokens", .empty_is_harmless = false, .hint = "see `max_tokens`"},
    RefusedField{.name = "media_io_kwargs", .scope = FieldScope::kPrompt},
    RefusedField{.name = "messages",
                 .scope = FieldScope::kPrompt,
                 .harmless = R"([])",
                 .hint = "see /v1/chat/completions"},
    RefusedField{.name = "min_keep", .harmless = R"([0,1])"},
    RefusedField{.name = "mirostat", .harmless = R"([0])"},
    RefusedField{
        .name = "mirostat_eta", .harmless = R"([0.1])", .switches = "mirostat mirostat_mode"},
    RefusedField{.name = "mirostat_mode", .harmless = R"([0])"},
    RefusedField{
        .name = "mirostat_tau", .harmless = R"([5])", .switches = "mirostat mirostat_mode"},
    RefusedField{.name = "mm_processor_kwargs", .scope = FieldScope::kPrompt},
    RefusedField{.name = "modalities", .harmless = R"([["text"]])"},
    RefusedField{.name = "multimodal_data", .scope = FieldScope::kPrompt},
    RefusedField{.name = "n_cmpl", .harmless = R"([1])", .hint = "see `n`"},
    RefusedField{.name = "n_indent", .harmless = R"([0])"},
    RefusedField{.name = "n_probs", .harmless = R"([0])", .hint = "see `logprobs`"},
    RefusedField{.name = "negative_prompt", .scope = FieldScope::kPrompt},
    RefusedField{.name = "no_repeat_ngram_size", .harmless = R"([0])"},
    RefusedField{.name = "no_stop_trim"},
    RefusedField{.name = "nsigma", .harmless = R"([0,-1])"},
    RefusedField{.name = "num_beams", .harmless = R"([1])"},
    RefusedField{.name = "options", .hint = "its fields belong into the body itself"},
    RefusedField{.name = "parse_special",
                 .scope = FieldScope::kPrompt,
                 .harmless = R"([true])",
                 .empty_is_harmless = false},
    RefusedField{.name = "penalize_nl"},
    RefusedField{.name = "penalty_alpha", .harmless = R"([0])"},
    RefusedField{.name = "plugins"},
    RefusedField{.name = "post_sampling_probs"},
    RefusedField{.name = "prediction"},
    RefusedField{.name = "previous_response_id", .scope = FieldScope::kPrompt},
    RefusedField{.name = "priority",
                 .harmless = R"([0])",
                 .hint = "requests are served in order of arrival"},
    RefusedField{.name = "prompt",
                 .scope = FieldScope::kPrompt,
                 .hint = "see `messages` or /v1/completions"},
    RefusedField{.name = "prompt_embeds", .scope = FieldScope::kPrompt},
    RefusedField{.name = "random_seed", .empty_is_harmless = false, .hint = "see `seed`"},
    RefusedField{.name = "reasoning", .scope = FieldScope::kPrompt},
    RefusedField{.name = "reasoning_budget", .harmless = R"([-1])", .empty_is_harmless = false},
    RefusedField{.name = "reasoning_effort",
                 .scope = FieldScope::kPrompt,
                 .harmless = R"(["none"])",
                 .hint = "put it into `chat_template_kwargs`"},
    RefusedField{.name = "reasoning_format", .harmless = R"(["none"])"},
    RefusedField{.name = "regex"},
    RefusedField{.name = "rep_pen", .harmless = R"([1])", .hint = "see `repetition_penalty`"},
    RefusedField{.name = "repetition_detection"},
    RefusedField{.name = "repetition_penalty_range"},
    RefusedField{.name = "response_fields"},
    RefusedField{.name = "return_full_text"},
    RefusedField{.name = "return_hidden_states"},
    RefusedField{.name = "return_logprob", .hint = "see `logprobs`"},
    RefusedField{.name = "return_tokens", .hint = "see `return_token_ids`"},
    RefusedField{.name = "safe_prompt"},
    RefusedField{.name = "sampler_order"},
    RefusedField{.name = "sampler_priority"},
    RefusedField{.name = "samplers"},
    RefusedField{.name = "separate_reasoning"},
    RefusedField{.name = "skew", .harmless = R"([0])"},
    RefusedField{.name = "smoothing_curve", .harmless = R"([1])", .switches = "smoothing_factor"},
    RefusedField{.name = "smoothing_factor", .harmless = R"([0])"},
    RefusedField{.name = "stop_regex"},
    RefusedField{.name = "stop_sequences"},
    RefusedField{.name = "structural_tag"},
    RefusedField{.name = "structured_outputs"},
    RefusedField{.name = "suffix", .scope = FieldScope::kPrompt},
    RefusedField{
        .name = "system", .scope = FieldScope::kPrompt, .hint = "send a message of role `system`"},
    RefusedField{.name = "system_prompt",
                 .scope = FieldScope::kPrompt,
                 .hint = "send a message of role `system`"},
    RefusedField{.name = "t_max_predict_ms", .harmless = R"([0,-1])"},
    RefusedField{.name = "t_max_prompt_ms", .harmless = R"([0,-1])"},
    RefusedField{.name = "temperature_last"},
    RefusedField{.name = "tfs", .harmless = R"([1])"},
    RefusedField{.name = "tfs_z", .harmless = R"([1])"},
    RefusedField{.name = "think", .scope = FieldScope::kPrompt},
    RefusedField{.name = "thinking", .scope = FieldScope::kPrompt},
    RefusedField{
        .name = "thinking_budget_tokens", .harmless = R"([-1])", .empty_is_harmless = false},
    RefusedField{
        .name = "thinking_token_budget", .harmless = R"([-1])", .empty_is_harmless = false},
    RefusedField{.name = "tool_choice",
                 .scope = FieldScope::kPrompt,
                 .harmless = R"(["none","auto"])",
                 .empty_is_harmless = false,
                 .hint = "it is for chats"},
    RefusedField{.name = "tools",
                 .scope = FieldScope::kPrompt,
                 .hint = "without `messages` there is no template to give them to"},
    RefusedField{.name = "top_a", .harmless = R"([0])"},
    RefusedField{.name = "top_logprobs", .harmless = R"([0])", .hint = "see `logprobs`"},
    RefusedField{.name = "top_n_sigma", .harmless = R"([0,-1])"},
    RefusedField{.name = "top_n_tokens", .harmless = R"([0])", .hint = "see `logprobs`"},
    RefusedField{.name = "truncate_prompt_tokens",
                 .scope = FieldScope::kPrompt,
                 .empty_is_harmless = false,
                 .hint = "prompts are never cut"},
    RefusedField{.name = "truncation_side",
                 .scope = FieldScope::kPrompt,
                 .harmless = R"(["left","right"])",
                 .switches = "truncate_prompt_tokens"},
    RefusedField{.name = "typical", .harmless = R"([1,0])"},
    RefusedField{.name = "typical_p", .harmless = R"([1,0])"},
    RefusedField{.name = "use_beam_search"},
    RefusedField{.name = "verbosity", .scope = FieldScope::kPrompt, .harmless = R"(["medium"])"},
    RefusedField{.name = "vllm_xargs"},
    RefusedField{.name = "watermark"},
    RefusedField{
        .name = "web_search_options", .harmless = R"([false])", .empty_is_harmless = false},
    RefusedField{
        .name = "with_pieces", .scope = FieldScope::kPrompt, .hint = "see `return_token_strs`"},
    RefusedField{.name = "xtc_probability", .harmless = R"([0])"},
    RefusedField{.name = "xtc_threshold", .harmless = R"([0.1])", .switches = "xtc_probability"},
};

constexpr bool ByName(const RefusedField& a, const RefusedField& b) { return a.name < b.name; }
static_assert(std::is_sorted(kRefusedFields.begin(), kRefusedFields.end(), ByName));

const RefusedField* FindRefused(std::string_view name) {
  const auto* const found = std::lower_bound(kRefusedFields.begin(), kRefusedFields.end(),
                                             RefusedField{.name = name}, ByName);
  return found != kRefusedFields.end() && found->name == name ? found : nullptr;
}

bool IsEmpty(const Json& value) {
  const auto is_null = [](const Json& item) { return item.is_null(); };
  return value == false || (value.is_array() && value.empty()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty()) ||
         (value.is_object() && std::all_of(value.begin(), value.end(), is_null));
}

bool IsHarmless(const RefusedField& field, const Json& value) {
  const Json harmless = Json::parse(field.harmless);
  return (field.empty_is_harmless && IsEmpty(value)) ||
         std::find(harmless.begin(), harmless.end(), value) != harmless.end();
}

// Whether what the field belongs to is there and off.
bool IsOff(std::string_view switches, FieldReader& fields) {
  bool is_off = false;
  while (!switches.empty()) {
    const std::string_view name = switches.substr(0, switches.find(' '));
    switches.remove_prefix(std::min(switches.size(), name.size() + 1));
    if (const Json* value = fields.Find(name); value != nullptr) {
      const RefusedField* field = FindRefused(name);
      if (field == nullptr || !IsHarmless(*field, *value)) {
        return false;
      }
      is_off = true;
    }
  }
  return is_off;
}

std::string MessageOf(const RefusedField& field) {
  const std::string_view values = field.harmless.substr(1, field.harmless.size() - 2);
  return fmt::format("is not supported{}{}{}{}", values.empty() ? "" : ", but for ", values,
                     field.hint.empty() ? "" : ": ", field.hint);
}

}  // namespace

void RefuseUnread(FieldReader& fields, FieldScope scope) {
  for (const std::string_view name : fields.Unread()) {
    const RefusedField* field = FindRefused(name);
    if (field == nullptr || (scope == FieldScope::kPrompt && field->scope != scope)) {
      continue;
    }
    if (!IsHarmless(*field, *fields.Find(name)) && !IsOff(field->switches, fields)) {
      fields.Fail(name, MessageOf(*field));
      return;
    }
  }
}

}  // namespace thermocline
