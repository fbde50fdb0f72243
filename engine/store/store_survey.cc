#include "engine/store/store_survey.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "engine/store/page_record.h"
#include "engine/store/record.h"
#include "engine/store/session_record.h"
#include "engine/store/store_layout.h"

namespace thermocline {
namespace {

using Entries = std::vector<FileIo::Entry>;

constexpr uint32_t kMaxPageTokens = 1U << 16;
constexpr int64_t kNsPerSecond = 1'000'000'000;

// Takes the high half of the digest: any part of it is random.
struct HashOfHash {
  size_t operator()(const ContentHash& hash) const { return hash.high; }
};

// Limits that fit the head, if it is a page of any model: only the model knows the exact sizes of
// its pages. Offsets are those of docs/store_format.md.
PageLimits LimitsOf(std::span<const std::byte> head, uint64_t file_bytes) {
  constexpr size_t kPageBytesPlace = 72;
  RecordReader reader(head);
  (void)reader.TakeBytes(kPageBytesPlace);
  const auto page_bytes = reader.Take<uint64_t>();
  (void)reader.TakeBytes(sizeof(int32_t) + sizeof(uint32_t));  // first position, tenant's length
  const auto num_tokens = reader.Take<uint32_t>();
  const auto tier = reader.Take<uint8_t>();
  PageLimits limits{.page_tokens = kMaxPageTokens};
  // A page on disk never has the backed tier.
  if (reader.good() && num_tokens <= kMaxPageTokens && page_bytes < file_bytes &&
      page_bytes <= std::numeric_limits<uint32_t>::max() &&
      tier < static_cast<uint8_t>(Tier::kBacked)) {
    limits.page_bytes.at(tier) = static_cast<uint32_t>(page_bytes);
  }
  return limits;
}

// Surveys the pages and sessions of one identity.
class IdentitySurvey {
 public:
  IdentitySurvey(FileIo& io, const std::string& root, const ContentHash& hash)
      : io_(io), root_(root), digits_(HexDigits(hash)), hash_(hash) {
    found_.hash = hash;
  }

  void Run(bool has_sessions, StoreSurvey& survey) {
    SurveyPages();
    if (has_sessions) {
      SurveySessions(survey);
    }
    survey.identities.push_back(found_);
  }

 private:
  void SurveyPages() {
    const Result<Entries> folders = ListFolder(io_, root_, digits_);
    if (!folders.ok()) {
      ++found_.num_unreadable_pages;
      return;
    }
    for (const FileIo::Entry& folder : *folders) {
      if (IsPageFolder(folder)) {
        SurveyFolder(folder.name);
      }
    }
  }

  // Counts the pages of one folder. A file may be replaced or removed after its size was read and
  // before its head is. So a file that seems to be no page is looked at once more, size and head.
  void SurveyFolder(const std::string& folder) {
    const std::string path = root_ + "/" + digits_ + "/" + folder;
    Result<Entries> files = ListIfThere(io_, path);
    if (!files.ok()) {
      ++found_.num_unreadable_pages;  // how many there are is not to be seen
      return;
    }
    std::set<std::string> doubtful;
    for (const FileIo::Entry& file : *files) {
      if (IsPageFile(file) && !CountPage(folder, file)) {
        doubtful.insert(file.name);
      }
    }
    if (doubtful.empty()) {
      return;
    }
    files = ListIfThere(io_, path);
    if (!files.ok()) {
      ++found_.num_unreadable_pages;
      return;
    }
    for (const FileIo::Entry& file : *files) {
      if (doubtful.contains(file.name) && IsPageFile(file) && !CountPage(folder, file)) {
        ++found_.num_unreadable_pages;
      }
    }
  }

  // Counts the file if it is a page; false if it is none.
  bool CountPage(const std::string& folder, const FileIo::Entry& file) {
    const Result<std::vector<std::byte>> head =
        io_.ReadHead(root_ + "/" + digits_ + "/" + folder + "/" + file.name, kPageHeadBytes);
    if (!head.ok()) {
      return false;
    }
    const Result<PageHead> page =
        DecodePageHead(hash_, *head, file.bytes, LimitsOf(*head, file.bytes));
    if (!page.ok() || page->hash != HashOfPageFile(folder, file.name)) {
      return false;
    }
    StoreSurvey::TierPages& tier = found_.tiers.at(static_cast<size_t>(page->tier));
    ++tier.num_pages;
    tier.bytes += file.bytes;
    const int64_t used = file.modified_ns / kNsPerSecond;
    found_.oldest_use_unix = pages_.empty() ? used : std::min(found_.oldest_use_unix, used);
    found_.latest_use_unix = pages_.empty() ? used : std::max(found_.latest_use_unix, used);
    pages_.emplace(page->hash, page->tier);
    return true;
  }

  void SurveySessions(StoreSurvey& survey) {
    const std::string folder = root_ + "/" + std::string(kSessionsFolder);
    const Result<Entries> files = ListFolder(io_, folder, digits_);
    if (!files.ok()) {
      ++found_.num_unreadable_sessions;
      return;
    }
    for (const FileIo::Entry& file : *files) {
      if (!IsSessionFile(file)) {
        continue;
      }
      const Result<std::vector<std::byte>> record = io_.ReadFile(
          folder + "/" + digits_ + "/" + file.name, MaxSessionRecordBytes(kAnySession));
      if (!record.ok() && record.status().code() == StatusCode::kNotFound) {
        continue;  // deleted just now
      }
      const Result<SavedSession> session =
          record.ok() ? DecodeSession(hash_, *record, kAnySession) : record.status();
      if (!session.ok()) {
        ++found_.num_unreadable_sessions;
        continue;
      }
      ++found_.num_sessions;
      survey.sessions.push_back(SurveyOf(*session, file.name));
    }
  }

  StoreSurvey::Session SurveyOf(const SavedSession& session, const std::string& file) const {
    StoreSurvey::Session found{.identity = hash_,
                               .file = file,
                               .tenant = session.tenant,
                               .id = session.id,
                               .num_tokens = session.tokens.size(),
                               .bytes = session.bytes,
                               .saved_at_unix = session.saved_at_unix};
    for (const ContentHash& hash : session.pages) {
      const auto page = pages_.find(hash);
      found.pages.push_back(page == pages_.end() ? std::nullopt : std::optional(page->second));
    }
    return found;
  }

  FileIo& io_;
  const std::string root_;
  const std::string digits_;
  const ContentHash hash_;
  StoreSurvey::Identity found_;
  std::unordered_map<ContentHash, Tier, HashOfHash> pages_;
};

void AddIdentities(const Entries& entries, std::map<std::string, ContentHash>& identities) {
  for (const FileIo::Entry& entry : entries) {
    if (IsIdentityFolder(entry)) {
      identities.emplace(entry.name, ParseHexDigits(entry.name).value());
    }
  }
}

bool HasStore(const Entries& entries) {
  return std::any_of(entries.begin(), entries.end(), [](const FileIo::Entry& entry) {
    return !entry.is_directory && (entry.name == kLockFile || entry.name == "hash.key");
  });
}

}  // namespace

Result<StoreSurvey> SurveyStore(FileIo& io, const std::string& directory) {
  const Result<Entries> entries = io.List(directory);
  if (!entries.ok()) {
    return entries.status();
  }
  if (!HasStore(*entries)) {
    return NotFound("{} holds no store", directory);
  }
  std::map<std::string, ContentHash> identities;
  AddIdentities(*entries, identities);
  const Result<Entries> sessions = ListFolder(io, directory, kSessionsFolder);
  if (!sessions.ok()) {
    return sessions.status();
  }
  AddIdentities(*sessions, identities);
  StoreSurvey survey;
  for (const auto& [digits, hash] : identities) {
    IdentitySurvey(io, directory, hash).Run(!sessions->empty(), survey);
  }
  std::stable_sort(survey.sessions.begin(), survey.sessions.end(),
                   [](const StoreSurvey::Session& a, const StoreSurvey::Session& b) {
                     return a.saved_at_unix > b.saved_at_unix;
                   });
  return survey;
}

}  // namespace thermocline
