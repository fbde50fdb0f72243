#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/baselines/evicting_runner.h"
#include "engine/calibration_start.h"
#include "engine/engine_parts.h"
#include "engine/kv/kv_cache.h"
#include "engine/kv/kv_sessions.h"
#include "engine/kv/kv_store.h"
#include "engine/kv/page_io.h"
#include "engine/kv/page_recoder.h"
#include "engine/loader/checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/model/transformer.h"
#include "engine/model_runner.h"
#include "engine/text/tokenizer.h"
#include "kernels/make_device.h"
#include "scheduler/prefix_cache.h"

namespace thermocline {
namespace {

// What a model without a template is spoken to with.
constexpr std::string_view kChatMl =
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

std::string Spelling(const Tokenizer& tokenizer, std::optional<TokenId> token) {
  return token.has_value() ? std::string(tokenizer.TokenBytes(*token, true)) : std::string();
}

Result<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const EngineConfig& config,
                                                       const Checkpoint& checkpoint,
                                                       const Tokenizer& tokenizer) {
  ChatTemplateTokens tokens{.bos_token = Spelling(tokenizer, tokenizer.bos())};
  const Result<int64_t> eos = checkpoint.ReadInt("tokenizer.ggml.eos_token_id");
  if (eos.ok() && *eos >= 0 && *eos < tokenizer.vocab_size()) {
    tokens.eos_token = Spelling(tokenizer, static_cast<TokenId>(*eos));
  }
  std::string source = config.chat_template;
  if (source.empty()) {
    const Result<std::string> own = checkpoint.ReadString("tokenizer.chat_template");
    if (!own.ok() && own.status().code() != StatusCode::kNotFound) {
      return own.status();
    }
    source = own.ok() ? *own : std::string(kChatMl);
  }
  return ChatTemplate::Create(source, tokens);
}

std::vector<TokenId> EndTokens(const Tokenizer& tokenizer) {
  std::vector<TokenId> tokens;
  for (TokenId token = 0; token < tokenizer.vocab_size(); ++token) {
    if (tokenizer.IsEndOfGeneration(token)) {
      tokens.push_back(token);
    }
  }
  return tokens;
}

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

uint64_t RandomBits() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// Reads the whole file, which takes a while: once, and only where something is kept by it. Before
// the weights are packed, and not left in memory beside them.
ContentHash DigestOfModel(const EngineConfig& config, const Checkpoint& checkpoint) {
  if (!Cools(config.kv_policy) && !HasKvStore(config)) {
    return {};
  }
  const ContentHash digest = PrefixCache::DefaultHash(checkpoint.bytes(), 0);
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    checkpoint.Release(tensor);
  }
  return digest;
}

int NumThreads(const EngineConfig& config) {
  return config.num_threads > 0
             ? config.num_threads
             : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// What a model runs on under a baseline; null without one.
Result<std::unique_ptr<EvictingOps>> MakeEvictingOps(const EngineConfig& config,
                                                     const ModelConfig& model,
                                                     const KvLayout& layout, Device& device) {
  if (!config.baseline.has_value()) {
    return std::unique_ptr<EvictingOps>();
  }
  return EvictingOps::Create(device,
                             {.baseline = *config.baseline,
                              .budget = config.kv_budget,
                              .num_heads = model.num_heads,
                              .num_threads = NumThreads(config)},
                             layout);
}

// Pages that were kept before the model was calibrated are recoded when they are read.
Status SetStoreFormats(const KvLayout& layout, const KvFormats& formats, Device& device, PageIo& io,
                       KvSessions& sessions) {
  const std::array<uint32_t, kNumTiers> page_bytes = PageBytes(layout, formats);
  KvFormats safe = SafeKvFormats(layout);
  safe.key_bias = formats.key_bias;
  const bool is_safe = formats.cold == safe.cold && formats.mean_keys.empty();
  PageNames names = is_safe ? PageNames(formats) : PageNames(formats, safe);
  Result<std::unique_ptr<PageRecoder>> recoder = std::unique_ptr<PageRecoder>();
  if (!is_safe) {
    recoder = PageRecoder::Create(device, layout, std::move(safe), formats);
    names = recoder.ok() ? names : PageNames(formats);
  }
  io.WhileIdle([&] {
    io.SetFormats(page_bytes, names, recoder.ok() ? *std::move(recoder) : nullptr);
    sessions.SetFormats(page_bytes, names);
  });
  return recoder.status();
}

// Pages outside the arena: where they are kept and who copies them.
Status LoadStore(const EngineConfig& config, const ContentHash& model_digest,
                 const KvFormats& formats, int max_model_len, ModelRunner& runner,
                 EngineParts& parts) {
  if (!HasKvStore(config)) {
    return {};
  }
  const KvLayout& layout = parts.pool->layout();
  const std::array<uint32_t, kNumTiers> page_bytes = PageBytes(layout, formats);
  Result<KvStore> store = OpenKvStore({.directory = config.kv_store_dir,
                                       .memory_bytes = KvStoreMemoryBytes(config),
                                       .disk_bytes = config.kv_store_disk_bytes,
                                       .on_notice = config.on_notice},
                                      KvIdentity(model_digest, layout), layout, page_bytes,
                                      max_model_len, parts.scheduler.prefix_hash_key);
  if (!store.ok()) {
    return store.status();
  }
  parts.store = std::make_unique<KvStore>(*std::move(store));
  parts.scheduler.prefix_hash_key = parts.store->pages->hash_key();
  parts.sessions = std::make_unique<KvSessions>(*parts.store, layout.page_tokens, page_bytes,
                                                UnixSeconds, PageNames(formats), config.on_notice);
  parts.page_io =
      std::make_unique<PageIo>(*parts.store->pages, *parts.device, runner.arena(), page_bytes);
  return SetStoreFormats(layout, formats, *parts.device, *parts.page_io, *parts.sessions);
}

// What is measured while the engine serves goes to all that know formats. They are where they are
// for the engine's life, wherever `parts` goes.
void AddLiveCalibration(CalibrationStart start, ModelRunner& runner, EngineParts& parts) {
  LiveCalibration::Config config = *std::move(start.to_measure);
  config.apply = [layout = config.layout, &runner, device = parts.device.get(),
                  io = parts.page_io.get(),
                  sessions = parts.sessions.get()](const Calibration& calibration) {
    runner.SetFormats(calibration.formats, calibration.probe_layers);
    if (io != nullptr) {
      // Without memory for it older pages are not read.
      (void)SetStoreFormats(layout, calibration.formats, *device, *io, *sessions);
    }
  };
  parts.live_calibration = std::make_unique<LiveCalibration>(
      runner.model(), *parts.device, std::move(start.begun), std::move(config));
}

// The model's weights and the cache: what takes the time and the memory.
Status LoadModel(const EngineConfig& config, const ModelConfig& model, EngineParts& parts) {
  const auto report = [&](std::string_view phase, double fraction) {
    if (config.on_progress) {
      config.on_progress(phase, fraction);
    }
  };
  const Result<int> max_model_len = ResolveMaxModelLen(config, model.context_length);
  if (!max_model_len.ok()) {
    return max_model_len.status();
  }
  const KvLayout layout = MakeKvLayout(model, config.block_size);
  Result<std::unique_ptr<EvictingOps>> evicting =
      MakeEvictingOps(config, model, layout, *parts.device);
  if (!evicting.ok()) {
    return evicting.status();
  }
  const ContentHash model_digest = DigestOfModel(config, *parts.checkpoint);
  report("weights", 0);
  Result<Transformer> transformer = Transformer::Load(
      model, *parts.checkpoint, *parts.device,
      *evicting == nullptr ? parts.device->ops() : **evicting, config.max_num_batched_tokens,
      [&](double fraction) { report("weights", fraction); });
  if (!transformer.ok()) {
    return transformer.status();
  }
  const uint64_t weight_bytes = transformer->weight_bytes();

  CalibrationStart calibration = StartCalibration(config, model_digest, *max_model_len, layout,
                                                  model, *parts.checkpoint, *parts.tokenizer);
  parts.calibration = calibration.in_force;
  parts.kept_calibration = calibration.kept;
  parts.calibration_state = calibration.state;
  const KvFormats& formats = parts.calibration.formats;

  report("cache", 0);
  const std::array<uint32_t, kNumTiers> page_bytes = PageBytes(layout, formats);
  const KvMemory memory{.page_bytes = page_bytes[static_cast<size_t>(Tier::kHot)],
                        .max_model_len = *max_model_len,
                        .available_bytes = parts.device->AvailableBytes()};
  const Result<uint64_t> arena_bytes = ResolveKvBytes(config, memory);
  if (!arena_bytes.ok()) {
    return arena_bytes.status();
  }
  Result<KvCache> cache = KvCache::Create(*parts.device, layout, formats, *arena_bytes);
  if (!cache.ok()) {
    return cache.status();
  }
  report("cache", 1);

  const std::array<uint32_t, kNumTiers> smallest = PageBytes(layout, DefaultKvFormats(layout));
  parts.pool = std::make_unique<PagePool>(layout, page_bytes, *arena_bytes,
                                          std::min(smallest[static_cast<size_t>(Tier::kCold)],
                                                   smallest[static_cast<size_t>(Tier::kArchive)]));
  auto runner =
      std::make_unique<ModelRunner>(*std::move(transformer), *std::move(cache),
                                    Sampler(model.vocab_size, EndTokens(*parts.tokenizer)),
                                    *parts.pool, *parts.device, parts.calibration.probe_layers);
  parts.scheduler = {
      .max_num_seqs = config.max_num_seqs,
      .max_num_batched_tokens = config.max_num_batched_tokens,
      .max_num_prefill_tokens_while_decoding = config.max_num_prefill_tokens_while_decoding,
      .max_model_len = *max_model_len,
      .max_num_queued_reqs = config.max_num_queued_reqs,
      .enable_prefix_caching = config.enable_prefix_caching,
      .prefix_hash_key = RandomBits(),
      .tiers = {.policy = config.kv_policy, .budget = config.kv_budget}};
  RETURN_IF_ERROR(LoadStore(config, model_digest, formats, *max_model_len, *runner, parts));
  if (calibration.to_measure.has_value()) {
    AddLiveCalibration(std::move(calibration), *runner, parts);
  }
  parts.runner = std::move(runner);
  if (*evicting != nullptr) {
    parts.runner = std::make_unique<EvictingRunner>(*std::move(evicting), std::move(parts.runner));
  }
  MemoryBudget& budget = parts.budget;
  budget.weight_bytes = weight_bytes;
  budget.kv_arena_bytes = *arena_bytes;
  budget.page_bytes = memory.page_bytes;
  budget.num_kv_tokens = parts.pool->num_pages() * static_cast<uint64_t>(layout.page_tokens);
  budget.max_model_len = *max_model_len;
  budget.cold_page_bytes = page_bytes[static_cast<size_t>(Tier::kCold)];
  budget.cold_kl = parts.calibration.cold_kl;
  return {};
}

}  // namespace

Status CalibrateNow(EngineParts& parts) {
  LiveCalibration* live = parts.live_calibration.get();
  if (live == nullptr) {
    return {};
  }
  while (!live->ended()) {
    live->Step(parts.pool->layout().page_tokens);
  }
  if (live->wants_switch()) {
    parts.pool->SetPageBytes(live->page_bytes());
    live->Switch();
  }
  return live->status();
}

Result<EngineParts> LoadEngineParts(const EngineConfig& config) {
  RETURN_IF_ERROR(ValidateEngineConfig(config));
  EngineParts parts;
  Result<std::unique_ptr<Checkpoint>> file = OpenCheckpoint(config.model_path);
  if (!file.ok()) {
    return file.status();
  }
  const auto in_file = [&](const Status& status) {
    return Status(status.code(), fmt::format("{}: {}", config.model_path, status.message()));
  };
  const Result<ModelConfig> model = ReadModelConfig(**file);
  if (!model.ok()) {
    return in_file(model.status());
  }
  Result<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(**file);
  if (!tokenizer.ok()) {
    return in_file(tokenizer.status());
  }
  parts.tokenizer = *std::move(tokenizer);
  Result<std::unique_ptr<ChatTemplate>> chat_template =
      LoadChatTemplate(config, **file, *parts.tokenizer);
  if (!chat_template.ok()) {
    return in_file(chat_template.status());
  }
  parts.chat_template = *std::move(chat_template);
  parts.checkpoint = *std::move(file);

  Result<std::unique_ptr<Device>> device =
      MakeDevice({.num_threads = NumThreads(config), .cpu_isa = config.cpu_isa});
  if (!device.ok()) {
    return device.status();
  }
  parts.device = *std::move(device);
  parts.draw_seed = RandomBits;
  RETURN_IF_ERROR(LoadModel(config, *model, parts));
  return parts;
}

}  // namespace thermocline
