// Conversations that clients save under a name: over restarts, other policies and formats, lower
// caps, and files that are damaged or gone.

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_parts.h"
#include "tests/testing/byte_model.h"
#include "tests/testing/engine_requests.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/kv_process.h"
#include "tests/testing/stored_pages.h"
#include "tests/testing/test_device.h"

namespace thermocline {
namespace {

// Bytes of `num_pages` hot pages with all that belongs to them on disk.
uint64_t RoomFor(uint64_t num_pages) {
  const std::unique_ptr<PagePool> pool = MakeBytePool(80);
  return num_pages * (uint64_t{pool->arena().units_per_page(Tier::kHot)} * kArenaUnitBytes + 600);
}

// A conversation of 240 tokens that is saved as `keep`, and others that nobody saves.
std::vector<TokenId> LeaveSaved(const std::string& directory, int num_others,
                                const ProcessOptions& options = {}) {
  Process process(directory, options);
  std::vector<TokenId> conversation = process.Run(FiniteTokens(200), 40, "keep");
  EXPECT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
  for (TokenId other = 1; other <= num_others; ++other) {
    process.Run(FiniteTokens(200, other * 37), 8);
  }
  return conversation;
}

void ExpectWhole(const std::string& directory, const ProcessOptions& options = {}) {
  Process process(directory, options);
  EXPECT_EQ(process.Ids(), std::vector<std::string>{"keep"});
  const Result<SessionInfo> restored = process.Do(&Engine::RestoreSession, "keep");
  ASSERT_TRUE(restored.ok()) << restored.status().message();
  EXPECT_EQ(restored->num_tokens, 240U);
  EXPECT_EQ(restored->num_restored_tokens, 7U * kPageTokens);
  EXPECT_EQ(restored->warning, "");
}

TEST(Sessions, ASavedConversationIsRestoredByNameAfterARestart) {
  const TestFolder directory;
  std::vector<TokenId> conversation;
  {
    Process process(directory.path());
    conversation = process.Run(FiniteTokens(200), 40, "talk-1");
    process.Run(FiniteTokens(50, 99), 4, "talk-2");
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

TEST(SavedSessions, AreWholeUnderALowerDiskCapOfTheNextStart) {
  const TestFolder directory;
  LeaveSaved(directory.path(), 4);
  const ProcessOptions lower{.disk_bytes = RoomFor(8)};
  ExpectWhole(directory.path(), lower);
  ExpectWhole(directory.path(), {.memory_bytes = RoomFor(1), .disk_bytes = RoomFor(3)});
  ExpectWhole(directory.path());
  Process process(directory.path(), {.disk_bytes = RoomFor(3)});
  EXPECT_NE(process.notices().find("saved sessions"), std::string::npos);
}

TEST(SavedSessions, AreListedRestoredAndDeletedUnderAnotherPolicyAndOtherFormats) {
  const TestFolder directory;
  LeaveSaved(directory.path(), 4);
  for (const KvPolicy policy : {KvPolicy::kAdaptive, KvPolicy::kCold, KvPolicy::kHot}) {
    const ProcessOptions other{
        .policy = policy, .disk_bytes = RoomFor(9), .cold = Codec::kTurboK4V3};
    {
      Process process(directory.path(), other);
      for (TokenId i = 1; i <= 4; ++i) {
        process.Run(FiniteTokens(200, i * 41), 8);
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
  const TestFolder directory;
  const ProcessOptions cold{.policy = KvPolicy::kCold};
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
      process.Run(FiniteTokens(200, i * 41), 8);
    }
  }
  ExpectWhole(directory.path(), cold);
}

TEST(SavedSessions, OfAnotherModelStayInTheSameDirectoryUnderTheSameName) {
  const TestFolder directory;
  LeaveSaved(directory.path(), 2);
  const ProcessOptions other{.disk_bytes = RoomFor(12), .identity = {.low = 7, .high = 7}};
  {
    Process process(directory.path(), other);
    EXPECT_TRUE(process.Ids().empty());
    EXPECT_FALSE(process.Do(&Engine::RestoreSession, "keep").ok());
    process.Run(FiniteTokens(100, 200), 8, "keep");
    EXPECT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
    for (TokenId i = 1; i <= 4; ++i) {
      process.Run(FiniteTokens(200, i * 41), 8);
    }
  }
  ExpectWhole(directory.path());
  Process process(directory.path(), other);
  EXPECT_EQ(process.Do(&Engine::RestoreSession, "keep")->num_tokens, 108U);
}

TEST(SavedSessions, LongerThanTodaysContextAreListedInPartRestoredAndNeverCut) {
  const TestFolder directory;
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
  const TestFolder directory;
  {
    Process process(directory.path());
    process.Run(FiniteTokens(500), 12, "full");
    EXPECT_EQ(process.Do(&Engine::SaveSession, "full")->num_tokens, 16U * kPageTokens);
    const Result<SessionInfo> restored = process.Do(&Engine::RestoreSession, "full");
    ASSERT_TRUE(restored.ok()) << restored.status().message();
    EXPECT_EQ(restored->num_restored_tokens, 15U * kPageTokens);
  }
  Process process(directory.path());
  EXPECT_EQ(process.Do(&Engine::RestoreSession, "full")->num_restored_tokens, 15U * kPageTokens);
  // A prompt that nothing follows may be as long too, and ends as it was given.
  const auto scored = process.Submit(FiniteTokens(16 * kPageTokens), 0, "scored");
  EXPECT_TRUE(scored->Wait().ok());
  EXPECT_TRUE(scored->tokens().empty());
  EXPECT_EQ(process.Do(&Engine::SaveSession, "scored")->num_tokens, 16U * kPageTokens);
}

// The store is smaller than what others put there meanwhile; the arena is not.
TEST(SavedSessions, WhoseCopiesTheStoreHasEvictedAreSavedFromTheArena) {
  const TestFolder directory;
  const ProcessOptions options{
      .num_units = 1600, .memory_bytes = RoomFor(2), .disk_bytes = RoomFor(16)};
  {
    Process process(directory.path(), options);
    process.Run(FiniteTokens(200), 40, "keep");
    // Pages are saved beside the requests: whenever that is, the oldest go first.
    for (TokenId other = 1; process.store->usage().num_evictions == 0; ++other) {
      process.Run(FiniteTokens(200, other % 399 + 1), 8);
    }
    const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "keep");
    ASSERT_TRUE(saved.ok()) << saved.status().message();
    EXPECT_EQ(saved->num_saved_tokens, 7U * kPageTokens);
  }
  ExpectWhole(directory.path(), options);
}

TEST(SavedSessions, WhoseFilesWereDamagedOrRemovedMeanwhileAreWrittenAgain) {
  const TestFolder directory;
  const ProcessOptions options{.num_units = 1600, .memory_bytes = RoomFor(1)};
  {
    Process process(directory.path(), options);
    process.Run(FiniteTokens(200), 40, "keep");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
    const std::vector<std::filesystem::path> files = directory.Files(".page");
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
  const TestFolder directory;
  const ProcessOptions options{.num_units = 1600, .memory_bytes = RoomFor(1)};
  {
    Process process(directory.path(), options);
    process.Run(FiniteTokens(200), 40, "keep");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
    std::filesystem::remove_all(directory.path());
    const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "keep");
    ASSERT_TRUE(saved.ok()) << saved.status().message();
  }
  ExpectWhole(directory.path(), options);
}

TEST(SavedSessions, WhoseFilesAreGoneAreAnErrorToRestoreAndSayHowMuchIsLeft) {
  const TestFolder directory;
  LeaveSaved(directory.path(), 0);
  for (const std::filesystem::path& file : directory.Files(".page")) {
    std::filesystem::remove(file);
  }
  Process process(directory.path());
  EXPECT_NE(process.notices().find("keep"), std::string::npos);
  EXPECT_EQ(process.Ids(), std::vector<std::string>{"keep"});
  const Result<SessionInfo> restored = process.Do(&Engine::RestoreSession, "keep");
  EXPECT_EQ(restored.status().code(), StatusCode::kFailedPrecondition);
  // The conversation goes on all the same, and can be saved anew.
  process.Run(FiniteTokens(200), 40, "keep");
  EXPECT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
}

TEST(SavedSessions, OfLessThanAPageAreAnError) {
  const TestFolder directory;
  Process process(directory.path());
  process.Run(FiniteTokens(10), 4, "short");
  const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "short");
  EXPECT_EQ(saved.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(process.Ids().empty());
}

TEST(SavedSessions, AFullDiskLeavesTheOneThatWasSavedBefore) {
  const TestFolder directory;
  const ProcessOptions small{
      .num_units = 1600, .memory_bytes = RoomFor(16), .disk_bytes = RoomFor(9)};
  {
    Process process(directory.path(), small);
    std::vector<TokenId> conversation = process.Run(FiniteTokens(200), 40, "keep");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "keep").ok());
    process.Run(conversation, 200, "keep");  // thirteen pages
    const Result<SessionInfo> saved = process.Do(&Engine::SaveSession, "keep");
    EXPECT_EQ(saved.status().code(), StatusCode::kResourceExhausted);
    EXPECT_EQ(saved.status().message().find(directory.path()), std::string::npos);
  }
  ExpectWhole(directory.path(), small);
}

TEST(SavedSessions, AreInADirectoryBehindALink) {
  const TestFolder directory;
  std::filesystem::create_directories(directory.path() + "/real");
  std::filesystem::create_directory_symlink("real", directory.path() + "/link");
  LeaveSaved(directory.path() + "/link", 0);
  ExpectWhole(directory.path() + "/link/");
  ExpectWhole(directory.path() + "/real");
}

TEST(SavedSessions, AnErrorOfTheDiskNamesNoPathToWhoAsked) {
  const TestFolder directory;
  Process process(directory.path());
  process.Run(FiniteTokens(200), 40, "keep");
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
  const TestFolder directory;
  {
    Process process(directory.path());
    std::vector<TokenId> conversation = process.Run(FiniteTokens(100), 10, "talk");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "talk").ok());
    process.Run(conversation, 100, "talk");
    ASSERT_TRUE(process.Do(&Engine::SaveSession, "talk").ok());
    EXPECT_EQ(process.Ids().size(), 1U);
  }
  Process process(directory.path());
  EXPECT_EQ(process.Do(&Engine::RestoreSession, "talk")->num_tokens, 210U);
}

TEST(Sessions, ADeletedOneIsGoneForGood) {
  const TestFolder directory;
  {
    Process process(directory.path());
    process.Run(FiniteTokens(100), 10, "talk");
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
  parts.device = MakeTestDevice(1);
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
  const TestFolder directory;
  std::atomic<int> answers = 0;
  {
    Process process(directory.path());
    process.Run(FiniteTokens(200), 10, "talk");
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
