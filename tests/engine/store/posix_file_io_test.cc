#include "engine/store/posix_file_io.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/testing/stored_pages.h"

namespace thermocline {
namespace {

namespace fs = std::filesystem;

class PosixFiles : public testing::Test {
 protected:
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  static std::span<const std::byte> Bytes(std::string_view text) {
    return std::as_bytes(std::span(text));
  }

  TestFolder folder_;
  PosixFileIo io_;
};

TEST_F(PosixFiles, AreReadAsTheyWereWrittenUpToABound) {
  ASSERT_TRUE(io_.WriteNewFile(Path("a"), Bytes("text")).ok());
  EXPECT_EQ(io_.WriteNewFile(Path("a"), Bytes("a longer text")).code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(ReadText(Path("a")), "text");
  EXPECT_EQ(io_.ReadFile(Path("a"), 4)->size(), 4U);
  EXPECT_EQ(io_.ReadFile(Path("a"), 3).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(io_.ReadHead(Path("a"), 3)->size(), 3U);
  EXPECT_EQ(io_.ReadHead(Path("a"), 9)->size(), 4U);
  EXPECT_EQ(io_.ReadFile(Path("b"), 3).status().code(), StatusCode::kNotFound);
}

TEST_F(PosixFiles, AreNeverLinksPipesOrFolders) {
  WriteText(Path("secret"), "secret");
  fs::create_symlink(Path("secret"), Path("link"));
  fs::create_directory(Path("folder"));
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  for (const char* name : {"link", "folder", "pipe"}) {
    EXPECT_FALSE(io_.ReadFile(Path(name), 100).ok()) << name;
    EXPECT_FALSE(io_.ReadHead(Path(name), 100).ok()) << name;
  }
  for (const char* name : {"link", "folder", "pipe"}) {
    EXPECT_EQ(io_.WriteNewFile(Path(name), Bytes("text")).code(), StatusCode::kAlreadyExists);
    EXPECT_FALSE(io_.Lock(Path(name)).ok()) << name;
  }
  EXPECT_EQ(ReadText(Path("secret")), "secret");
  const auto entries = io_.List(folder_.path());
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 2U);  // the secret and the folder
  for (const FileIo::Entry& entry : *entries) {
    EXPECT_EQ(entry.is_directory, entry.name == "folder");
    EXPECT_TRUE(entry.is_directory || entry.bytes == 6);
  }
}

TEST_F(PosixFiles, AreNeverBehindALinkWhereverItIsInTheirPath) {
  fs::create_directories(Path("real/inner"));
  WriteText(Path("real/inner/a"), "text");
  fs::create_directory_symlink("real", Path("link"));
  EXPECT_TRUE(io_.ReadFile(Path("real/inner/a"), 10).ok());
  EXPECT_FALSE(io_.ReadFile(Path("link/inner/a"), 10).ok());
  EXPECT_FALSE(io_.WriteNewFile(Path("link/inner/b"), Bytes("text")).ok());
  EXPECT_FALSE(io_.List(Path("link/inner")).ok());
  EXPECT_FALSE(io_.List(Path("link")).ok());
  EXPECT_FALSE(io_.MakeDirectories(Path("link/new")).ok());
  EXPECT_FALSE(io_.Remove(Path("link/inner/a")).ok());
  EXPECT_FALSE(io_.Touch(Path("link/inner/a")).ok());
  EXPECT_FALSE(io_.Rename(Path("real/inner/a"), Path("link/a")).ok());
  EXPECT_FALSE(io_.SyncDirectory(Path("link")).ok());
  EXPECT_EQ(ReadText(Path("real/inner/a")), "text");
  EXPECT_FALSE(fs::exists(Path("real/new")));
}

TEST_F(PosixFiles, ADirectoryThatSomebodyGaveIsResolvedOnce) {
  fs::create_directory(Path("real"));
  fs::create_directory_symlink("real", Path("link"));
  for (const char* name : {"link", "link/", "real/", "real/../link"}) {
    EXPECT_EQ(ResolveDirectory(Path(name)).value(), fs::canonical(Path("real"))) << name;
  }
  EXPECT_EQ(ResolveDirectory(Path("link/new/")).value(), fs::canonical(Path("real")) / "new");
}

TEST_F(PosixFiles, WrittenWholeNeedNoNameThatSomebodyHasTaken) {
  WriteText(Path("secret"), "secret");
  fs::create_symlink(Path("secret"), Path("a.tmp"));
  ASSERT_EQ(mkfifo(Path("a.1.tmp").c_str(), 0600), 0);
  ASSERT_TRUE(WriteWholeFile(io_, Path("a"), Bytes("text")).ok());
  EXPECT_EQ(ReadText(Path("a")), "text");
  EXPECT_EQ(ReadText(Path("secret")), "secret");
}

TEST_F(PosixFiles, WrittenWholeReplaceTheOldOneAndLeaveNothingBeside) {
  ASSERT_TRUE(WriteWholeFile(io_, Path("a"), Bytes("old")).ok());
  ASSERT_TRUE(WriteWholeFile(io_, Path("a"), Bytes("new")).ok());
  EXPECT_EQ(ReadText(Path("a")), "new");
  EXPECT_EQ(io_.List(folder_.path())->size(), 1U);
  EXPECT_EQ(WriteWholeFile(io_, Path("no/a"), Bytes("new")).code(), StatusCode::kNotFound);
}

TEST_F(PosixFiles, TouchedAreNewerThanTheyWere) {
  WriteText(Path("a"), "text");
  fs::last_write_time(Path("a"), fs::file_time_type::clock::now() - std::chrono::hours(1));
  const int64_t before = io_.List(folder_.path())->at(0).modified_ns;
  ASSERT_TRUE(io_.Touch(Path("a")).ok());
  EXPECT_GT(io_.List(folder_.path())->at(0).modified_ns - before, int64_t{3'000'000'000'000});
  EXPECT_EQ(io_.Touch(Path("b")).code(), StatusCode::kNotFound);
}

TEST_F(PosixFiles, RemovedTwiceAreNoError) {
  WriteText(Path("a"), "text");
  EXPECT_TRUE(io_.Remove(Path("a")).ok());
  EXPECT_FALSE(fs::exists(Path("a")));
  EXPECT_TRUE(io_.Remove(Path("a")).ok());
}

TEST_F(PosixFiles, DirectoriesAreMadeWithAllAboveThemForTheirOwner) {
  ASSERT_TRUE(io_.MakeDirectories(Path("x/y/z")).ok());
  ASSERT_TRUE(io_.MakeDirectories(Path("x/y/z/")).ok());
  EXPECT_EQ(fs::status(Path("x/y")).permissions(), fs::perms::owner_all);
  WriteText(Path("file"), "text");
  EXPECT_FALSE(io_.MakeDirectories(Path("file")).ok());
  EXPECT_FALSE(io_.MakeDirectories(Path("file/x")).ok());
}

TEST_F(PosixFiles, ALockIsHeldByOneUntilItEnds) {
  auto first = io_.Lock(Path("lock"));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(io_.Lock(Path("lock")).status().code(), StatusCode::kFailedPrecondition);
  first->reset();
  EXPECT_TRUE(io_.Lock(Path("lock")).ok());
}

}  // namespace
}  // namespace thermocline
