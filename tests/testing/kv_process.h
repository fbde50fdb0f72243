#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_parts.h"
#include "engine/kv/kv_cache.h"
#include "engine/kv/kv_store.h"
#include "engine/kv/page_recoder.h"
#include "tests/testing/byte_model.h"
#include "tests/testing/engine_requests.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/stored_pages.h"
#include "tests/testing/test_device.h"

namespace thermocline {

struct ProcessOptions {
  KvPolicy policy = KvPolicy::kHot;
  int num_units = 160;
  uint64_t memory_bytes = 1 << 20;
  uint64_t disk_bytes = 1 << 30;
  int max_pages = 16;                    // of a sequence
  ContentHash identity = kTestIdentity;  // another one: another model
  Codec cold = Codec::kTurbo3;           // as if calibrated so, for the names of formats alone
  KvFormats formats = DefaultKvFormats(kSmallLayout);
  std::optional<KvFormats> older = std::nullopt;  // that pages are read in too
};

// An engine over pages of real bytes and a store, as one process has them.
class Process {
 public:
  explicit Process(const std::string& directory, const ProcessOptions& options = {}) {
    EngineParts parts;
    parts.device = MakeTestDevice(1);
    parts.tokenizer = std::make_unique<FakeTokenizer>(kVocab);
    parts.pool =
        std::make_unique<PagePool>(kSmallLayout, PageBytes(kSmallLayout, options.formats),
                                   static_cast<uint64_t>(options.num_units) * kArenaUnitBytes);
    auto runner = std::make_unique<ByteRunner>(*parts.pool, *parts.device, kVocab);
    runner_ = runner.get();
    runner_->SetFormats(options.formats);
    std::array<uint32_t, kNumTiers> page_bytes{};
    for (size_t tier = 0; tier < kNumTiers; ++tier) {
      page_bytes[tier] = static_cast<uint32_t>(
          parts.pool->arena().units_per_page(static_cast<Tier>(tier)) * kArenaUnitBytes);
    }
    const KvStoreConfig config{.directory = directory,
                               .memory_bytes = options.memory_bytes,
                               .disk_bytes = options.disk_bytes,
                               .on_notice = [this](const std::string& notice) {
                                 const std::lock_guard lock(mutex_);
                                 notices_ += notice + "\n";
                               }};
    KvFormats formats = options.formats;
    if (options.cold != Codec::kTurbo3) {
      formats.cold[0] = options.cold;
    }
    const PageNames names = options.older ? PageNames(formats, *options.older) : PageNames(formats);
    parts.store = std::make_unique<KvStore>(*OpenKvStore(
        config, options.identity, kSmallLayout, page_bytes, options.max_pages * kPageTokens, 1));
    parts.sessions = std::make_unique<KvSessions>(
        *parts.store, kPageTokens, page_bytes, [] { return int64_t{1234}; }, names,
        config.on_notice);
    store = parts.store->pages.get();
    parts.page_io = std::make_unique<PageIo>(*parts.store->pages, *parts.device,
                                             runner_->bytes().view().arena, page_bytes, names);
    if (options.older) {
      parts.page_io->SetFormats(
          page_bytes, names,
          *PageRecoder::Create(*parts.device, kSmallLayout, *options.older, options.formats));
    }
    parts.runner = std::move(runner);
    parts.scheduler = {.max_num_seqs = 4,
                       .max_num_batched_tokens = 64,
                       .max_model_len = options.max_pages * kPageTokens,
                       .max_num_queued_reqs = 64,
                       .prefix_hash_key = parts.store->pages->hash_key(),
                       .tiers = {.policy = options.policy, .window_tokens = kPageTokens}};
    parts.draw_seed = [] { return uint64_t{5}; };
    engine = Engine::FromParts(std::move(parts));
  }
  ~Process() {
    EXPECT_EQ(runner_->num_wrong_pages(), 0);
    engine.reset();  // its threads use what is below
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  std::shared_ptr<Recording> Submit(std::vector<TokenId> prompt, int max_tokens,
                                    std::string session_id = "") {
    Request request = MakeRequest(std::move(prompt), max_tokens);
    request.session_id = std::move(session_id);
    auto recording = std::make_shared<Recording>();
    EXPECT_TRUE(
        engine->Submit(std::move(request), std::make_unique<RecordingSink>(recording)).ok());
    return recording;
  }
  // The whole conversation afterwards.
  std::vector<TokenId> Run(std::vector<TokenId> prompt, int max_tokens,
                           std::string session_id = "") {
    const auto recording = Submit(prompt, max_tokens, std::move(session_id));
    EXPECT_TRUE(recording->Wait().ok());
    EXPECT_EQ(recording->tokens(), FakeRunner::ExpectedOutput(prompt, 0, max_tokens, kVocab));
    usage = recording->usage();
    const std::vector<TokenId> output = recording->tokens();
    prompt.insert(prompt.end(), output.begin(), output.end());
    return prompt;
  }

  // Waits for the answer of `call`, which is Engine's SaveSession, RestoreSession or DeleteSession.
  Result<SessionInfo> Do(auto call, const std::string& id, const std::string& tenant = "default") {
    auto promise = std::make_shared<std::promise<Result<SessionInfo>>>();
    std::future<Result<SessionInfo>> answer = promise->get_future();
    (engine.get()->*call)(
        tenant, id, [promise](Result<SessionInfo> info) { promise->set_value(std::move(info)); });
    return answer.get();
  }
  std::vector<std::string> Ids(const std::string& tenant = "default") {
    std::vector<std::string> ids;
    engine->ListSessions(tenant, [&](Result<std::vector<SessionInfo>> sessions) {
      for (const SessionInfo& session : *sessions) {
        ids.push_back(session.id);
      }
    });
    return ids;
  }

  std::string notices() {
    const std::lock_guard lock(mutex_);
    return notices_;
  }

  BackingStore* store = nullptr;
  std::unique_ptr<Engine> engine;
  Usage usage;  // what the latest Run has cost

 private:
  std::mutex mutex_;  // guards notices_
  std::string notices_;
  ByteRunner* runner_ = nullptr;
};

}  // namespace thermocline
