#include "server/cli/kv_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "engine/store/backing_store.h"
#include "engine/store/posix_file_io.h"
#include "engine/store/record.h"
#include "engine/store/session_store.h"
#include "server/cli/kv_report.h"
#include "server/http/json.h"
#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

constexpr int64_t kNow = 1'000'000;
constexpr SessionLimits kLimits{.max_tokens = 50};

struct Ran {
  int exit_code = 0;
  std::string output;
  std::string error;
};

Ran Kv(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), {"thermocline", "kv"});
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const auto parsed =
      ParseCommandLine(static_cast<int>(arguments.size()), arguments.data(), "1.2.3");
  Ran ran;
  if (const int* exit_code = std::get_if<int>(&parsed)) {
    ran.exit_code = *exit_code;
  } else {
    ran.exit_code = RunKv(std::get<KvOptions>(std::get<CommandLine>(parsed).command), kNow);
  }
  ran.output = testing::internal::GetCapturedStdout();
  ran.error = testing::internal::GetCapturedStderr();
  return ran;
}

// A store with three pages and a session that has two of them and lacks one.
class KvCommand : public testing::Test {
 protected:
  KvCommand() {
    const auto pages = OpenPages();
    CHECK(pages->Put(TestHash(0), TestPage(0)).ok());
    CHECK(pages->Put(TestHash(1), TestPage(1, Tier::kCold, Tier::kCold)).ok());
    CHECK(pages->Put(TestHash(2), TestPage(2)).ok());
    CHECK(pages->Flush().ok());
    Save("default", "winter");
  }

  std::unique_ptr<BackingStore> OpenPages() {
    auto store = BackingStore::Create(TestConfig(folder_.path(), 10, 100), io_);
    CHECK(store.ok());
    return *std::move(store);
  }
  void Save(const std::string& tenant, const std::string& id) {
    const auto store = SessionStore::Create(folder_.path(), kTestIdentity, io_, kLimits);
    CHECK(store.ok());
    CHECK((*store)
              ->Save({.tenant = tenant,
                      .id = id,
                      .tokens = {1, 2, 3, 4, 5},
                      .pages = {TestHash(0), TestHash(1), TestHash(9)},
                      .saved_at_unix = kNow - 3 * 3600,
                      .bytes = 2048})
              .ok());
  }
  size_t NumSessions() const { return folder_.Files(".session").size(); }
  size_t NumPages() const { return folder_.Files(".page").size(); }

  TestFolder folder_;
  PosixFileIo io_;
  const std::string directory_ = folder_.path();
  const char* const dir_ = directory_.c_str();
};

TEST_F(KvCommand, LsIsATableOfSessions) {
  Save("acme", "a-longer-name");
  const Ran ran = Kv({"ls", dir_});
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_EQ(ran.error, "");
  EXPECT_THAT(ran.output,
              HasSubstr("SESSION        TENANT   TOKENS  PAGES      SIZE    SAVED  MODEL\n"));
  EXPECT_THAT(ran.output,
              HasSubstr("winter         default       5    2/3  2.00 KiB  3 h ago  00000000\n"));
  EXPECT_THAT(ran.output,
              HasSubstr("a-longer-name  acme          5    2/3  2.00 KiB  3 h ago  00000000\n"));
  EXPECT_THAT(ran.output, HasSubstr("3 pages of 1 model, "));
}

TEST_F(KvCommand, InspectTellsPagesByTier) {
  const Ran ran = Kv({"inspect", dir_});
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_THAT(ran.output, HasSubstr("model " + HexDigits(kTestIdentity)));
  EXPECT_THAT(ran.output,
              MatchesRegex("(.|\n)*hot +2 (.|\n)*cold +1 (.|\n)*all +3 (.|\n)*1 session\n"));
  EXPECT_THAT(ran.output, Not(HasSubstr("warm")));
  EXPECT_THAT(ran.output, Not(HasSubstr("cannot be read")));
}

TEST_F(KvCommand, InspectOfASessionTellsEachPage) {
  const Ran ran = Kv({"inspect", dir_, "winter"});
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_THAT(ran.output, HasSubstr("3, of these 2 in the store; the first 2 can be restored"));
  EXPECT_THAT(ran.output, HasSubstr("tiers    hc-\n"));
  EXPECT_EQ(Kv({"inspect", dir_, "winter", "--tenant", "acme"}).exit_code, 1);
  const Ran none = Kv({"inspect", dir_, "no\x1b[2Jone"});
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_EQ(none.output, "");
  EXPECT_THAT(none.error, HasSubstr("there is no session no\\x1b[2Jone of tenant default"));
}

TEST_F(KvCommand, JsonHasTheSameNumbers) {
  const auto parse = [](const Ran& ran) { return ParseJson(ran.output).value()["data"][0]; };
  const Json session = parse(Kv({"ls", dir_, "--json"}));
  EXPECT_EQ(session["id"], "winter");
  EXPECT_EQ(session["page_tiers"], "hc-");
  EXPECT_EQ(session["present_pages"], 2);
  EXPECT_EQ(session["saved_at"], kNow - 3 * 3600);
  EXPECT_EQ(parse(Kv({"inspect", dir_, "winter", "--json"})), session);
  const Json identity = parse(Kv({"inspect", dir_, "--json"}));
  EXPECT_EQ(identity["identity"], HexDigits(kTestIdentity));
  EXPECT_EQ(identity["tiers"]["hot"]["pages"], 2);
  EXPECT_EQ(identity["tiers"]["hot"]["bytes"], 2 * kTestPageBytes);
  EXPECT_EQ(identity["sessions"], 1);
}

TEST_F(KvCommand, DamageIsToldAndTheRestIsListed) {
  WriteText(folder_.Files(".page").at(0), "damaged");
  Save("default", "spring");
  WriteText(folder_.Files(".session").at(0), "damaged");
  const Ran ran = Kv({"ls", dir_});
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_THAT(ran.output, HasSubstr("2 pages of 1 model"));
  EXPECT_THAT(ran.output, HasSubstr("cannot be read: 1 page file, 1 session file\n"));
  EXPECT_THAT(Kv({"inspect", dir_}).output,
              HasSubstr("cannot be read: 1 page file, 1 session file\n"));
}

TEST_F(KvCommand, NothingFromDiskControlsTheTerminal) {
  Save("\x1b[31mred\n\x7f\xc2\x9b\\", "spring");
  for (const bool json : {false, true}) {
    std::vector<const char*> arguments = {"ls", dir_};
    if (json) {
      arguments.push_back("--json");
    }
    const Ran ran = Kv(arguments);
    EXPECT_EQ(ran.exit_code, 0);
    for (const char c : ran.output) {
      EXPECT_TRUE((c >= ' ' && c <= '~') || c == '\n') << static_cast<int>(c) << ran.output;
    }
  }
  EXPECT_THAT(Kv({"ls", dir_}).output, HasSubstr("\\x1b[31mred\\x0a\\x7f\\xc2\\x9b\\x5c"));
}

TEST_F(KvCommand, TimesThatCannotBeAreNoTrouble) {
  const auto store = SessionStore::Create(directory_, kTestIdentity, io_, kLimits);
  ASSERT_TRUE(store.ok());
  for (const int64_t time : {INT64_MIN, INT64_MAX}) {
    ASSERT_TRUE((*store)
                    ->Save({.tenant = "default",
                            .id = time < 0 ? "old" : "new",
                            .saved_at_unix = time,
                            .bytes = UINT64_MAX})
                    .ok());
  }
  const Ran ran = Kv({"ls", dir_});
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_THAT(ran.output,
              MatchesRegex("(.|\n)*new [^\n]* 0 s ago (.|\n)*old [^\n]* 11 d ago (.|\n)*"));
}

TEST_F(KvCommand, RmRemovesASessionOfItsTenantAlone) {
  Save("acme", "winter");
  const Ran ran = Kv({"rm", dir_, "winter", "--tenant", "acme"});
  EXPECT_EQ(ran.exit_code, 0) << ran.error;
  EXPECT_THAT(ran.output, HasSubstr("removed winter"));
  EXPECT_EQ(Kv({"inspect", dir_, "winter", "--tenant", "acme"}).exit_code, 1);
  EXPECT_EQ(Kv({"inspect", dir_, "winter"}).exit_code, 0);
  EXPECT_EQ(NumPages(), 3);
  EXPECT_EQ(Kv({"rm", dir_, "winter", "--tenant", "acme"}).exit_code, 1);
}

TEST_F(KvCommand, RmRemovesASessionThatCannotBeReadByItsName) {
  WriteText(folder_.Files(".session").at(0), "no session");
  EXPECT_EQ(Kv({"rm", dir_, "summer"}).exit_code, 1);
  EXPECT_EQ(Kv({"rm", dir_, "winter"}).exit_code, 0);
  EXPECT_EQ(NumSessions(), 0U);
  EXPECT_EQ(NumPages(), 3U);
}

TEST_F(KvCommand, TheDirectoryMayBeALink) {
  const TestFolder elsewhere;
  const std::string link = elsewhere.path() + "/link";
  fs::create_directory_symlink(folder_.path(), link);
  EXPECT_THAT(Kv({"ls", link.c_str()}).output, HasSubstr("winter"));
  EXPECT_EQ(Kv({"rm", (link + "/").c_str(), "winter"}).exit_code, 0);
  EXPECT_EQ(NumSessions(), 0U);
}

TEST_F(KvCommand, RmRemovesAModelByItsFirstDigits) {
  EXPECT_EQ(Kv({"rm", dir_, "--identity", "abcd"}).exit_code, 1);
  EXPECT_EQ(NumPages(), 3);
  const Ran ran = Kv({"rm", dir_, "--identity", "0000"});
  EXPECT_EQ(ran.exit_code, 0) << ran.error;
  EXPECT_EQ(ran.output, "removed 4 files\n");
  EXPECT_EQ(NumPages() + NumSessions(), 0);
}

TEST_F(KvCommand, RmNeedsDigitsThatNameOneModel) {
  BackingStore::Config config = TestConfig(directory_, 10, 100);
  config.identity = {.low = 7, .high = 7};
  {
    const auto other = BackingStore::Create(config, io_);
    ASSERT_TRUE(other.ok());
    ASSERT_TRUE((*other)->Put(TestHash(5), TestPage(5)).ok());
    ASSERT_TRUE((*other)->Flush().ok());
  }
  const Ran ran = Kv({"rm", dir_, "--identity", "0000"});
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.error, HasSubstr("2 models"));
  EXPECT_EQ(NumPages(), 4);
}

TEST_F(KvCommand, RmAllLeavesAStoreThatOpensEmpty) {
  const fs::path note = fs::path(directory_) / "notes.txt";
  WriteText(note, "mine");
  const Ran ran = Kv({"rm", dir_, "--all", "--json"});
  EXPECT_EQ(ran.exit_code, 0) << ran.error;
  EXPECT_EQ(ParseJson(ran.output).value()["removed_files"], 4);
  EXPECT_TRUE(fs::exists(note));
  EXPECT_EQ(OpenPages()->usage().num_pages, 0);
  EXPECT_EQ(Kv({"ls", dir_}).output, "no session is saved\n0 pages of 0 models, 0 B\n");
  EXPECT_EQ(Kv({"inspect", dir_}).output, "nothing is stored\n");
}

TEST_F(KvCommand, RmBesideAServerSaysWhomToAsk) {
  const auto server = OpenPages();
  for (const std::vector<const char*>& what :
       {std::vector{"winter"}, {"--all"}, {"--identity", "0000"}}) {
    std::vector<const char*> arguments = {"rm", dir_};
    arguments.insert(arguments.end(), what.begin(), what.end());
    const Ran ran = Kv(arguments);
    EXPECT_EQ(ran.exit_code, 1);
    EXPECT_THAT(ran.error, HasSubstr("DELETE /v1/kv/sessions/"));
  }
  EXPECT_EQ(NumPages(), 3);
  EXPECT_EQ(NumSessions(), 1);
  EXPECT_EQ(Kv({"ls", dir_}).exit_code, 0);
}

TEST_F(KvCommand, ADirectoryWithoutAStoreIsLeftAsItIs) {
  const TestFolder other;
  WriteText(fs::path(other.path()) / "notes.txt", "mine");
  const char* dir = other.path().c_str();
  EXPECT_EQ(Kv({"ls", dir}).exit_code, 1);
  EXPECT_EQ(Kv({"inspect", dir}).exit_code, 1);
  EXPECT_EQ(Kv({"rm", dir, "--all"}).exit_code, 1);
  EXPECT_THAT(Kv({"ls", dir}).error, HasSubstr("holds no store"));
  EXPECT_EQ(other.Files("").size(), 1);
}

TEST_F(KvCommand, WrongUseIsAnsweredWithTwoAndRemovesNothing) {
  for (const std::vector<const char*>& wrong : {std::vector<const char*>{},
                                                {"ls"},
                                                {"rm", dir_},
                                                {"rm", dir_, "winter", "--all"},
                                                {"rm", dir_, "--all", "--identity", "0000"},
                                                {"rm", dir_, "--identity", "000"},
                                                {"rm", dir_, "--identity", "../.."},
                                                {"rm", dir_, "winter", "summer"},
                                                {"melt", dir_}}) {
    EXPECT_EQ(Kv(wrong).exit_code, 2) << testing::PrintToString(wrong);
  }
  EXPECT_EQ(NumPages() + NumSessions(), 4);
  EXPECT_EQ(Kv({"--help"}).exit_code, 0);
}

TEST_F(KvCommand, TheEnvironmentRemovesNothing) {
  ASSERT_EQ(setenv("THERMOCLINE_ALL", "1", 1), 0);
  EXPECT_EQ(Kv({"rm", dir_}).exit_code, 2);
  unsetenv("THERMOCLINE_ALL");
  EXPECT_EQ(NumPages() + NumSessions(), 4);
}

}  // namespace
}  // namespace thermocline
