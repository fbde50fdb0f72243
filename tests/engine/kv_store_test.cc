// Conversations that outlive the arena and the process: the whole engine over real bytes and a
// store in a directory.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_parts.h"
#include "engine/kv_cache.h"
#include "engine/kv_store.h"
#include "engine/store/posix_file_io.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/testing/byte_model.h"
#include "tests/testing/fake_model.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/recording_sink.h"

namespace thermocline {
namespace {

constexpr int kVocab = 500;
constexpr int kPageTokens = kSmallLayout.page_tokens;
constexpr ContentHash kIdentity{.low = 5, .high = 6};

std::vector<TokenId> Counting(int count, TokenId first = 0) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    tokens[static_cast<size_t>(i)] = (first + i) % 400;
  }
  return tokens;
}

class Directory {
 public:
  Directory() : path_(Parent() / ("kv_store_" + std::to_string(std::random_device()()))) {}
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  std::string path() const { return path_.string(); }

  std::vector<std::filesystem::path> PageFiles() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
      if (entry.path().extension() == ".page") {
        files.push_back(entry.path());
      }
    }
    return files;
  }

 private:
  // In memory where there is such a place: syncing to a device would be most of the tests' time.
  static std::filesystem::path Parent() {
    const std::filesystem::path in_memory = "/dev/shm";
    return std::filesystem::is_directory(in_memory) ? in_memory
                                                    : std::filesystem::path(testing::TempDir());
  }

  std::filesystem::path path_;
};

struct Options {
  KvPolicy policy = KvPolicy::kHot;
  int num_units = 160;
  uint64_t memory_bytes = 1 << 20;
  uint64_t disk_bytes = 1 << 30;
  int max_pages = 16;                // of a sequence
  ContentHash identity = kIdentity;  // another one: another model
  Codec cold = Codec::kTurbo3;       // as if calibrated so, for the names of formats alone
  KvFormats formats = DefaultKvFormats(kSmallLayout);
  std::optional<KvFormats> older = std::nullopt;  // that pages are read in too
};

// One process.
class Process {
 public:
  explicit Process(const std::string& directory, const Options& options = {}) {
    EngineParts parts;
    parts.device = *CpuDevice::Create({.num_threads = 1});
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
    EngineConfig config;
    config.kv_store_dir = directory;
    config.kv_store_memory_bytes = options.memory_bytes;
    config.kv_store_disk_bytes = options.disk_bytes;
    config.on_notice = [this](const std::string& notice) {
      const std::lock_guard lock(mutex_);
      notices_ += notice + "\n";
    };
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
    parts.page_io = std::make_unique<PageIo>(*parts.store->pages, runner_->bytes().view().arena,
                                             page_bytes, names);
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
    Request request;
    request.prompt = std::move(prompt);
    request.session_id = std::move(session_id);
    request.stop.max_tokens = max_tokens;
    request.stop.ignore_eos = true;
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

  // `call`: of Engine's.
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
  Usage usage;  // of the latest Run

 private:
  std::mutex mutex_;  // guards notices_
  std::string notices_;
  ByteRunner* runner_ = nullptr;
};

TEST(KvStore, PagesOfAnotherModelOrLayoutHaveAnotherIdentity) {
  const ContentHash model{.low = 1, .high = 2};
  const ContentHash identity = KvIdentity(model, kSmallLayout);
  EXPECT_EQ(identity, KvIdentity(model, kSmallLayout));
  EXPECT_NE(identity, KvIdentity({.low = 1, .high = 3}, kSmallLayout));
  KvLayout layout = kSmallLayout;
  layout.page_tokens *= 2;
  EXPECT_NE(identity, KvIdentity(model, layout));
}

TEST(KvStore, WhatWasKeptInOlderFormatsIsRestoredWhole) {
  const Directory directory;
  const Options before{.policy = KvPolicy::kCold, .formats = SafeKvFormats(kSmallLayout)};
  const Options after{.policy = KvPolicy::kCold, .older = before.formats};
  std::vector<TokenId> conversation = Counting(200);
  uint64_t num_saved = 0;
  {
    Process process(directory.path(), before);
    conversation = process.Run(conversation, 40, "talk");
    num_saved = process.Do(&Engine::SaveSession, "talk").value().num_saved_tokens;
    EXPECT_GE(num_saved, 6U * kPageTokens);
  }
  Process process(directory.path(), after);
  EXPECT_EQ(process.Do(&Engine::RestoreSession, "talk").value().num_restored_tokens, num_saved);
  process.Run(conversation, 8);
  EXPECT_EQ(static_cast<uint64_t>(process.usage.cached_prompt_tokens), num_saved);
  // Saved again, in today's formats, none of it is lost.
  conversation = process.Run(conversation, 8, "talk");
  EXPECT_GE(process.Do(&Engine::SaveSession, "talk").value().num_saved_tokens, num_saved);
}

TEST(KvStore, ColdPagesOfFormatsThatNobodyKnowsAreComputedAgain) {
  const Directory directory;
  std::vector<TokenId> conversation = Counting(200);
  conversation =
      Process(directory.path(), {.policy = KvPolicy::kCold, .formats = {.cold = {Codec::kInt8}}})
          .Run(conversation, 40);
  Process process(directory.path(), {.policy = KvPolicy::kCold});
  process.Run(conversation, 8);
  // The first page is warm, and no mean keys are taken off it.
  EXPECT_EQ(process.usage.cached_prompt_tokens, kPageTokens);
}

TEST(PageNames, HotPagesHaveOneNameAndCodedOnesOneForEachFormat) {
  const ContentHash hash{.low = 5, .high = 6};
  const KvFormats formats = DefaultKvFormats(kSmallLayout);
  KvFormats other_codec = formats;
  other_codec.cold[0] = Codec::kInt8;
  KvFormats other_means = formats;
  other_means.mean_keys.assign(4, 1.0F);
  const auto name = [&](const KvFormats& of, Tier tier) {
    return PageNames(of).NameOf(hash, tier);
  };
  for (const Tier tier : {Tier::kHot, Tier::kWarm, Tier::kCold, Tier::kArchive}) {
    EXPECT_EQ(name(formats, tier), name(formats, tier));
    EXPECT_EQ(name(formats, tier) == name(other_codec, tier), tier <= Tier::kWarm);
    EXPECT_EQ(name(formats, tier) == name(other_means, tier), tier == Tier::kHot);
  }
  EXPECT_EQ(name(formats, Tier::kHot), hash);
  EXPECT_NE(name(formats, Tier::kCold), name(formats, Tier::kArchive));
  const PageNames both(formats, other_codec);
  EXPECT_EQ(both.NameOf(hash, Tier::kCold), name(formats, Tier::kCold));
  EXPECT_EQ(both.OlderNameOf(hash, Tier::kCold), name(other_codec, Tier::kCold));
  EXPECT_FALSE(both.OlderNameOf(hash, Tier::kHot).has_value());
  EXPECT_FALSE(both.OlderNameOf(hash, Tier::kArchive).has_value());  // there is no way back
}

TEST(KvStore, AConversationGoesOnAfterARestartWithoutItsPromptBeingComputedAgain) {
  for (const KvPolicy policy : {KvPolicy::kHot, KvPolicy::kAdaptive, KvPolicy::kCold}) {
    const Directory directory;
    std::vector<TokenId> conversation = Counting(200);
    conversation = Process(directory.path(), {.policy = policy}).Run(conversation, 40);
    conversation.push_back(7);
    Process process(directory.path(), {.policy = policy});
    process.Run(conversation, 10);
    EXPECT_EQ(process.usage.restored_prompt_tokens, 7 * kPageTokens);
    EXPECT_EQ(process.usage.cached_prompt_tokens, 7 * kPageTokens);
    EXPECT_EQ(process.engine->stats().scheduler.restored_tokens, 7U * kPageTokens);
  }
}

TEST(KvStore, WithoutADirectoryPagesThatLeaveTheArenaComeBackFromMemory) {
  Process process("", {.num_units = 80});  // 20 hot pages
  const std::vector<TokenId> first = process.Run(Counting(300), 8);
  for (TokenId other = 1; other <= 4; ++other) {
    process.Run(Counting(300, other * 37), 8);  // takes ten pages
  }
  process.Run(first, 4);
  EXPECT_GT(process.usage.restored_prompt_tokens, 0);
}

TEST(KvStore, ADamagedFileCostsItsPageAndNothingElse) {
  const Directory directory;
  std::vector<TokenId> conversation = Process(directory.path()).Run(Counting(200), 40);
  for (const std::filesystem::path& file : directory.PageFiles()) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(3000);
    stream.put('\x5a');
    stream.put('\xa5');
  }
  Process process(directory.path());
  process.Run(conversation, 4);
  EXPECT_EQ(process.usage.restored_prompt_tokens, 0);
  EXPECT_GT(process.engine->stats().store->num_damaged, 0U);
}

TEST(KvStore, ManyConversationsThatReturnOverASmallArenaAllGiveTheirText) {
  const Directory directory;
  std::mt19937 random(3);
  std::vector<std::vector<TokenId>> conversations;
  for (TokenId i = 0; i < 12; ++i) {
    conversations.push_back(Counting(60 + 10 * i, i * 31));
  }
  uint64_t restored = 0;
  for (int restart = 0; restart < 3; ++restart) {
    Process process(
        directory.path(),
        {.policy = restart % 2 == 0 ? KvPolicy::kAdaptive : KvPolicy::kCold, .num_units = 100});
    for (int turn = 0; turn < 30; ++turn) {
      auto& conversation = conversations[random() % conversations.size()];
      if (conversation.size() > 400) {
        continue;
      }
      conversation.push_back(static_cast<TokenId>(random() % 400));
      conversation = process.Run(conversation, 20);
    }
    restored += process.engine->stats().scheduler.restored_tokens;
  }
  EXPECT_GT(restored, 2000U);
}

TEST(Sessions, ASavedConversationIsRestoredByNameAfterARestart) {
  const Directory directory;
  std::vector<TokenId> conversation;
  {
    Process process(directory.path());
    conversation = process.Run(Counting(200), 40, "talk-1");
    process.Run(Counting(50, 99), 4, "talk-2");
    const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "talk-1");
    ASSERT_TRUE(saved.ok()) << saved.status().message();
    EXPECT_EQ(saved->num_tokens, 240U);
    EXPECT_EQ(saved->num_saved_tokens, 7U * kPageTokens);
    EXPECT_EQ(saved->saved_at_unix, 1234);
    EXPECT_GT(saved->bytes, 0U);
    EXPECT_EQ(process.Ids(), std::vector<std::string>{"talk-1"});
  }
  Process process(directory.path());
  EXPECT_EQ(process.Ids(), std::vector<std::string>{"talk-1"});
  EXPECT_TRUE(process.Ids("somebody else").empty());
  const Result<SessionInfo> restored = process.Do(&Engine::RestoreSession, "talk-1");
  ASSERT_TRUE(restored.ok()) << restored.status().message();
  EXPECT_EQ(restored->num_tokens, 240U);
  EXPECT_EQ(restored->num_restored_tokens, 7U * kPageTokens);
  conversation.push_back(3);
  process.Run(conversation, 4);
  EXPECT_EQ(process.usage.cached_prompt_tokens, 7 * kPageTokens);
  EXPECT_EQ(process.usage.restored_prompt_tokens, 0);  // they were in the arena already
  // Restored, it can be saved again under its name.
  EXPECT_TRUE(process.Do(&Engine::SaveSession, "talk-1").ok());
}

// Bytes of `num_pages` hot pages with all that belongs to them on disk.
uint64_t RoomFor(uint64_t num_pages) {
  const std::unique_ptr<PagePool> pool = MakeBytePool(80);
  return num_pages * (uint64_t{pool->arena().units_per_page(Tier::kHot)} * kArenaUnitBytes + 600);
}

// A conversation of 240 tokens that is saved as `keep`, and others that nobody saves.
std::vector<TokenId> LeaveSaved(const std::string& directory, int num_others,
                                const Options& options = {}) {
  Process process(directory, options);
  std::vector<TokenId> conversation = process.Run(Counting(200), 40, "keep");
  EXPECT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
  for (TokenId other = 1; other <= num_others; ++other) {
    process.Run(Counting(200, other * 37), 8);
  }
  return conversation;
}

void ExpectWhole(const std::string& directory, const Options& options = {}) {
  Process process(directory, options);
  EXPECT_EQ(process.Ids(), std::vector<std::string>{"keep"});
  const Result<SessionInfo> restored = process.Do(&Engine::RestoreSession, "keep");
  ASSERT_TRUE(restored.ok()) << restored.status().message();
  EXPECT_EQ(restored->num_tokens, 240U);
  EXPECT_EQ(restored->num_restored_tokens, 7U * kPageTokens);
  EXPECT_EQ(restored->warning, "");
}

TEST(SavedSessions, AreWholeUnderALowerDiskCapOfTheNextStart) {
  const Directory directory;
  LeaveSaved(directory.path(), 4);
  const Options lower{.disk_bytes = RoomFor(8)};
  ExpectWhole(directory.path(), lower);
  ExpectWhole(directory.path(), {.memory_bytes = RoomFor(1), .disk_bytes = RoomFor(3)});
  ExpectWhole(directory.path());
  Process process(directory.path(), {.disk_bytes = RoomFor(3)});
  EXPECT_NE(process.notices().find("saved sessions"), std::string::npos);
}

TEST(SavedSessions, AreListedRestoredAndDeletedUnderAnotherPolicyAndOtherFormats) {
  const Directory directory;
  LeaveSaved(directory.path(), 4);
  for (const KvPolicy policy : {KvPolicy::kAdaptive, KvPolicy::kCold, KvPolicy::kHot}) {
    const Options other{.policy = policy, .disk_bytes = RoomFor(9), .cold = Codec::kTurboK4V3};
    {
      Process process(directory.path(), other);
      for (TokenId i = 1; i <= 4; ++i) {
        process.Run(Counting(200, i * 41), 8);
      }
    }
    ExpectWhole(directory.path(), other);
  }
  ExpectWhole(directory.path());
  {
    Process process(directory.path(), {.policy = KvPolicy::kAdaptive});
    EXPECT_TRUE(process.Do(&Engine::DeleteSession, "keep").ok());
  }
  EXPECT_TRUE(Process(directory.path()).Ids().empty());
}

TEST(SavedSessions, OfColdPagesSurviveAStartWithOtherFormats) {
  const Directory directory;
  const Options cold{.policy = KvPolicy::kCold};
  LeaveSaved(directory.path(), 2, cold);
  {
    Process process(
        directory.path(),
        {.policy = KvPolicy::kCold, .disk_bytes = RoomFor(8), .cold = Codec::kTurboK4V3});
    EXPECT_EQ(process.Ids(), std::vector<std::string>{"keep"});
    const Result<SessionInfo> restored = process.Do(&Engine::RestoreSession, "keep");
    if (restored.ok()) {  // its first pages are hot
      EXPECT_NE(restored->warning + process.notices(), "");
    }
    for (TokenId i = 1; i <= 4; ++i) {
      process.Run(Counting(200, i * 41), 8);
    }
  }
  ExpectWhole(directory.path(), cold);
}

TEST(SavedSessions, OfAnotherModelStayInTheSameDirectoryUnderTheSameName) {
  const Directory directory;
  LeaveSaved(directory.path(), 2);
  const Options other{.disk_bytes = RoomFor(12), .identity = {.low = 7, .high = 7}};
  {
    Process process(directory.path(), other);
    EXPECT_TRUE(process.Ids().empty());
    EXPECT_FALSE(process.Do(&Engine::RestoreSession, "keep").ok());
    process.Run(Counting(100, 200), 8, "keep");
    EXPECT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
    for (TokenId i = 1; i <= 4; ++i) {
      process.Run(Counting(200, i * 41), 8);
    }
  }
  ExpectWhole(directory.path());
  Process process(directory.path(), other);
  EXPECT_EQ(process.Do(&Engine::RestoreSession, "keep")->num_tokens, 108U);
}

TEST(SavedSessions, LongerThanTodaysContextAreListedInPartRestoredAndNeverCut) {
  const Directory directory;
  LeaveSaved(directory.path(), 0);
  {
    Process process(directory.path(), {.max_pages = 4});
    EXPECT_EQ(process.Ids(), std::vector<std::string>{"keep"});
    const Result<SessionInfo> restored = process.Do(&Engine::RestoreSession, "keep");
    ASSERT_TRUE(restored.ok()) << restored.status().message();
    EXPECT_EQ(restored->num_tokens, 240U);
    EXPECT_EQ(restored->num_restored_tokens, 3U * kPageTokens);
    EXPECT_NE(restored->warning.find("--max-model-len"), std::string::npos);
    EXPECT_EQ(process.Do(&Engine::SaveSession, "keep").status().code(), StatusCode::kNotFound);
  }
  ExpectWhole(directory.path());
}

TEST(SavedSessions, OfTheWholeContextAreSavedAndRestored) {
  const Directory directory;
  {
    Process process(directory.path());
    process.Run(Counting(500), 12, "full");
    EXPECT_EQ(process.Do(&Engine::SaveSession, "full")->num_tokens, 16U * kPageTokens);
    const Result<SessionInfo> restored = process.Do(&Engine::RestoreSession, "full");
    ASSERT_TRUE(restored.ok()) << restored.status().message();
    EXPECT_EQ(restored->num_restored_tokens, 15U * kPageTokens);
  }
  Process process(directory.path());
  EXPECT_EQ(process.Do(&Engine::RestoreSession, "full")->num_restored_tokens, 15U * kPageTokens);
  // A prompt that nothing follows may be as long too, and ends as it was given.
  const auto scored = process.Submit(Counting(16 * kPageTokens), 0, "scored");
  EXPECT_TRUE(scored->Wait().ok());
  EXPECT_TRUE(scored->tokens().empty());
  EXPECT_EQ(process.Do(&Engine::SaveSession, "scored")->num_tokens, 16U * kPageTokens);
}

// The store is smaller than what others put there meanwhile; the arena is not.
TEST(SavedSessions, WhoseCopiesTheStoreHasEvictedAreSavedFromTheArena) {
  const Directory directory;
  const Options options{.num_units = 1600, .memory_bytes = RoomFor(2), .disk_bytes = RoomFor(16)};
  {
    Process process(directory.path(), options);
    process.Run(Counting(200), 40, "keep");
    // Pages are saved beside the requests: whenever that is, the oldest go first.
    for (TokenId other = 1; process.store->usage().num_evictions == 0; ++other) {
      process.Run(Counting(200, other % 399 + 1), 8);
    }
    const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "keep");
    ASSERT_TRUE(saved.ok()) << saved.status().message();
    EXPECT_EQ(saved->num_saved_tokens, 7U * kPageTokens);
  }
  ExpectWhole(directory.path(), options);
}

TEST(SavedSessions, WhoseFilesWereDamagedOrRemovedMeanwhileAreWrittenAgain) {
  const Directory directory;
  const Options options{.num_units = 1600, .memory_bytes = RoomFor(1)};
  {
    Process process(directory.path(), options);
    process.Run(Counting(200), 40, "keep");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
    const std::vector<std::filesystem::path> files = directory.PageFiles();
    for (size_t i = 0; i < files.size(); ++i) {
      if (i % 2 == 0) {
        std::filesystem::remove(files[i]);
      } else {
        std::ofstream(files[i]) << "garbage";
      }
    }
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
  }
  ExpectWhole(directory.path(), options);
}

TEST(SavedSessions, AreWrittenWholeIntoADirectoryThatSomebodyRemovedMeanwhile) {
  const Directory directory;
  const Options options{.num_units = 1600, .memory_bytes = RoomFor(1)};
  {
    Process process(directory.path(), options);
    process.Run(Counting(200), 40, "keep");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
    std::filesystem::remove_all(directory.path());
    const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "keep");
    ASSERT_TRUE(saved.ok()) << saved.status().message();
  }
  ExpectWhole(directory.path(), options);
}

TEST(SavedSessions, WhoseFilesAreGoneAreAnErrorToRestoreAndSayHowMuchIsLeft) {
  const Directory directory;
  LeaveSaved(directory.path(), 0);
  for (const std::filesystem::path& file : directory.PageFiles()) {
    std::filesystem::remove(file);
  }
  Process process(directory.path());
  EXPECT_NE(process.notices().find("keep"), std::string::npos);
  EXPECT_EQ(process.Ids(), std::vector<std::string>{"keep"});
  const Result<SessionInfo> restored = process.Do(&Engine::RestoreSession, "keep");
  EXPECT_EQ(restored.status().code(), StatusCode::kFailedPrecondition);
  // The conversation goes on all the same, and can be saved anew.
  process.Run(Counting(200), 40, "keep");
  EXPECT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
}

TEST(SavedSessions, OfLessThanAPageAreAnError) {
  const Directory directory;
  Process process(directory.path());
  process.Run(Counting(10), 4, "short");
  const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "short");
  EXPECT_EQ(saved.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(process.Ids().empty());
}

TEST(SavedSessions, AFullDiskLeavesTheOneThatWasSavedBefore) {
  const Directory directory;
  const Options small{.num_units = 1600, .memory_bytes = RoomFor(16), .disk_bytes = RoomFor(9)};
  {
    Process process(directory.path(), small);
    std::vector<TokenId> conversation = process.Run(Counting(200), 40, "keep");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
    process.Run(conversation, 200, "keep");  // thirteen pages
    const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "keep");
    EXPECT_EQ(saved.status().code(), StatusCode::kResourceExhausted);
    EXPECT_EQ(saved.status().message().find(directory.path()), std::string::npos);
  }
  ExpectWhole(directory.path(), small);
}

TEST(SavedSessions, AreInADirectoryBehindALink) {
  const Directory directory;
  std::filesystem::create_directories(directory.path() + "/real");
  std::filesystem::create_directory_symlink("real", directory.path() + "/link");
  LeaveSaved(directory.path() + "/link", 0);
  ExpectWhole(directory.path() + "/link/");
  ExpectWhole(directory.path() + "/real");
}

TEST(SavedSessions, AnErrorOfTheDiskNamesNoPathToWhoAsked) {
  const Directory directory;
  Process process(directory.path());
  process.Run(Counting(200), 40, "keep");
  ASSERT_TRUE(process.store->Flush().ok());
  const std::filesystem::path sessions = std::filesystem::path(directory.path()) / "sessions";
  for (const auto& entry : std::filesystem::directory_iterator(sessions)) {
    if (entry.is_directory()) {  // where nothing can be renamed to
      std::filesystem::remove_all(entry.path());
      std::ofstream(entry.path()) << "no folder";
    }
  }
  const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "keep");
  ASSERT_EQ(saved.status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(saved.status().message().find("sessions/"), std::string::npos);
  EXPECT_EQ(saved.status().message().find(directory.path()), std::string::npos);
  EXPECT_NE(process.notices().find(directory.path()), std::string::npos);
}

TEST(Sessions, SavingAgainKeepsTheLongerConversation) {
  const Directory directory;
  {
    Process process(directory.path());
    std::vector<TokenId> conversation = process.Run(Counting(100), 10, "talk");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "talk").ok());
    process.Run(conversation, 100, "talk");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "talk").ok());
    EXPECT_EQ(process.Ids().size(), 1U);
  }
  Process process(directory.path());
  EXPECT_EQ(process.Do(&Engine::RestoreSession, "talk")->num_tokens, 210U);
}

TEST(Sessions, ADeletedOneIsGoneForGood) {
  const Directory directory;
  {
    Process process(directory.path());
    process.Run(Counting(100), 10, "talk");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "talk").ok());
    EXPECT_EQ(process.Do(&Engine::DeleteSession, "talk", "somebody else").status().code(),
              StatusCode::kNotFound);
    EXPECT_TRUE(process.Do(&Engine::DeleteSession, "talk").ok());
    EXPECT_EQ(process.Do(&Engine::RestoreSession, "talk").status().code(), StatusCode::kNotFound);
  }
  Process process(directory.path());
  EXPECT_TRUE(process.Ids().empty());
  EXPECT_EQ(process.Do(&Engine::DeleteSession, "talk").status().code(), StatusCode::kNotFound);
}

TEST(Sessions, UnknownOnesAndBadNamesAreErrors) {
  Process process("");
  EXPECT_EQ(process.Do(&Engine::SaveSession, "talk").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(process.Do(&Engine::RestoreSession, "talk").status().code(), StatusCode::kNotFound);
  for (const char* id : {"", "../talk", "a b", "t\xc3\xa4lk"}) {
    EXPECT_EQ(process.Do(&Engine::SaveSession, id).status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(process.Do(&Engine::RestoreSession, id).status().code(),
              StatusCode::kInvalidArgument);
  }
}

TEST(Sessions, WithoutAStoreEachCallSaysHowToGetOne) {
  EngineParts parts;
  parts.device = *CpuDevice::Create({.num_threads = 1});
  parts.tokenizer = std::make_unique<FakeTokenizer>(kVocab);
  parts.pool = MakeBytePool(80);
  parts.runner = std::make_unique<FakeRunner>(*parts.pool, kVocab);
  parts.scheduler = {.max_num_seqs = 1, .max_num_batched_tokens = 16, .max_model_len = 64};
  parts.draw_seed = [] { return uint64_t{5}; };
  const auto engine = Engine::FromParts(std::move(parts));
  StatusCode code = StatusCode::kOk;
  const auto note = [&](const auto& result) { code = result.status().code(); };
  engine->SaveSession("default", "talk", note);
  EXPECT_EQ(code, StatusCode::kUnimplemented);
  engine->ListSessions("default", note);
  EXPECT_EQ(code, StatusCode::kUnimplemented);
}

TEST(Sessions, CallsInFlightWhenTheEngineEndsAreAllAnswered) {
  const Directory directory;
  std::atomic<int> answers = 0;
  {
    Process process(directory.path());
    process.Run(Counting(200), 10, "talk");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "talk").ok());
    for (int i = 0; i < 20; ++i) {
      const auto count = [&](const Result<SessionInfo>&) { ++answers; };
      process.engine->SaveSession("default", "talk", count);
      process.engine->RestoreSession("default", "talk", count);
      process.engine->DeleteSession("default", "talk", count);
    }
  }
  EXPECT_EQ(answers, 60);
}

}  // namespace
}  // namespace thermocline
