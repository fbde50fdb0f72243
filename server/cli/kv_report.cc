#include "server/cli/kv_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <utility>

#include "engine/store/record.h"
#include "server/api/kv_names.h"
#include "server/cli/byte_size.h"

namespace thermocline {
namespace {

constexpr size_t kShortDigits = 8;  // an identity's first ones, where a line must hold it

// Times in files may be any number.
std::string Age(int64_t unix_seconds, int64_t now_unix) {
  constexpr int64_t kMinute = 60;
  constexpr int64_t kHour = 60 * kMinute;
  constexpr int64_t kDay = 24 * kHour;
  const int64_t age = now_unix - std::clamp<int64_t>(unix_seconds, 0, now_unix);
  if (age < 2 * kMinute) {
    return fmt::format("{} s ago", age);
  }
  if (age < 2 * kHour) {
    return fmt::format("{} min ago", age / kMinute);
  }
  return age < 2 * kDay ? fmt::format("{} h ago", age / kHour)
                        : fmt::format("{} d ago", age / kDay);
}

// Columns as wide as they must be; those of `numeric` end in line.
std::string Table(const std::vector<std::vector<std::string>>& rows,
                  const std::vector<bool>& numeric) {
  std::vector<size_t> widths(numeric.size());
  for (const std::vector<std::string>& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string table;
  for (const std::vector<std::string>& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += numeric[i] ? fmt::format("{:>{}}  ", row[i], widths[i])
                         : fmt::format("{:<{}}  ", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    table += line + "\n";
  }
  return table;
}

size_t NumPresent(const StoreSurvey::Session& session) {
  return static_cast<size_t>(
      std::count_if(session.pages.begin(), session.pages.end(),
                    [](const std::optional<Tier>& page) { return page.has_value(); }));
}

// Pages in a row from the first one: only these can be taken up again.
size_t NumRestorable(const StoreSurvey::Session& session) {
  return static_cast<size_t>(std::find(session.pages.begin(), session.pages.end(), std::nullopt) -
                             session.pages.begin());
}

// A letter each, as /v1/kv has them.
std::string PageLetters(const StoreSurvey::Session& session) {
  std::string letters;
  for (const std::optional<Tier>& page : session.pages) {
    letters += page.has_value() ? NameOf(kTierNames, *page).front() : '-';
  }
  return letters;
}

StoreSurvey::TierPages AllPages(const StoreSurvey::Identity& identity) {
  StoreSurvey::TierPages all;
  for (const StoreSurvey::TierPages& tier : identity.tiers) {
    all.num_pages += tier.num_pages;
    all.bytes += tier.bytes;
  }
  return all;
}

std::string Count(uint64_t number, std::string_view one) {
  return fmt::format("{} {}{}", number, one, number == 1 ? "" : "s");
}

// Empty when all could be read.
std::string Unreadable(uint64_t num_pages, uint64_t num_sessions) {
  if (num_pages == 0 && num_sessions == 0) {
    return "";
  }
  return fmt::format("cannot be read: {}, {}\n", Count(num_pages, "page file"),
                     Count(num_sessions, "session file"));
}

Json SessionJson(const StoreSurvey::Session& session) {
  return {{"id", session.id},
          {"tenant", session.tenant},
          {"identity", HexDigits(session.identity)},
          {"tokens", session.num_tokens},
          {"pages", session.pages.size()},
          {"present_pages", NumPresent(session)},
          {"restorable_pages", NumRestorable(session)},
          {"page_tiers", PageLetters(session)},
          {"bytes", session.bytes},
          {"saved_at", session.saved_at_unix}};
}

}  // namespace

std::string EscapeBytes(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    if (c >= ' ' && c <= '~' && c != '\\') {
      text += c;
    } else {
      fmt::format_to(std::back_inserter(text), "\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return text;
}

std::string SessionsTable(const StoreSurvey& survey, int64_t now_unix) {
  std::vector<std::vector<std::string>> rows = {
      {"SESSION", "TENANT", "TOKENS", "PAGES", "SIZE", "SAVED", "MODEL"}};
  for (const StoreSurvey::Session& session : survey.sessions) {
    rows.push_back({EscapeBytes(session.id), EscapeBytes(session.tenant),
                    std::to_string(session.num_tokens),
                    fmt::format("{}/{}", NumPresent(session), session.pages.size()),
                    FormatByteSize(session.bytes), Age(session.saved_at_unix, now_unix),
                    HexDigits(session.identity).substr(0, kShortDigits)});
  }
  StoreSurvey::TierPages all;
  uint64_t num_unreadable_pages = 0;
  uint64_t num_unreadable_sessions = 0;
  for (const StoreSurvey::Identity& identity : survey.identities) {
    const StoreSurvey::TierPages pages = AllPages(identity);
    all.num_pages += pages.num_pages;
    all.bytes += pages.bytes;
    num_unreadable_pages += identity.num_unreadable_pages;
    num_unreadable_sessions += identity.num_unreadable_sessions;
  }
  std::string report = rows.size() == 1
                           ? "no session is saved\n"
                           : Table(rows, {false, false, true, true, true, true, false});
  report += fmt::format("{} of {}, {}\n", Count(all.num_pages, "page"),
                        Count(survey.identities.size(), "model"), FormatByteSize(all.bytes));
  return report + Unreadable(num_unreadable_pages, num_unreadable_sessions);
}

std::string IdentitiesReport(const StoreSurvey& survey, int64_t now_unix) {
  std::string report;
  for (const StoreSurvey::Identity& identity : survey.identities) {
    const StoreSurvey::TierPages all = AllPages(identity);
    std::vector<std::vector<std::string>> rows = {{"TIER", "PAGES", "SIZE"}};
    for (const Named<Tier>& tier : kTierNames) {
      const StoreSurvey::TierPages& pages = identity.tiers.at(static_cast<size_t>(tier.value));
      if (pages.num_pages > 0) {
        rows.push_back(
            {std::string(tier.name), std::to_string(pages.num_pages), FormatByteSize(pages.bytes)});
      }
    }
    rows.push_back({"all", std::to_string(all.num_pages), FormatByteSize(all.bytes)});
    report += fmt::format("{}model {}\n", report.empty() ? "" : "\n", HexDigits(identity.hash)) +
              Table(rows, {false, true, true});
    if (all.num_pages > 0) {
      report += fmt::format("pages were used {} (latest) to {} (oldest)\n",
                            Age(identity.latest_use_unix, now_unix),
                            Age(identity.oldest_use_unix, now_unix));
    }
    report += Count(identity.num_sessions, "session") + "\n" +
              Unreadable(identity.num_unreadable_pages, identity.num_unreadable_sessions);
  }
  return report.empty() ? "nothing is stored\n" : report;
}

std::string SessionReport(const StoreSurvey::Session& session, int64_t now_unix) {
  return Table(
      {{"session", EscapeBytes(session.id)},
       {"tenant", EscapeBytes(session.tenant)},
       {"model", HexDigits(session.identity)},
       {"saved", Age(session.saved_at_unix, now_unix)},
       {"tokens", std::to_string(session.num_tokens)},
       {"size", FormatByteSize(session.bytes)},
       {"pages", fmt::format("{}, of these {} in the store; the first {} can be restored",
                             session.pages.size(), NumPresent(session), NumRestorable(session))},
       {"tiers", PageLetters(session)}},
      {false, false});
}

Json SessionsJson(const std::vector<StoreSurvey::Session>& sessions) {
  Json list = Json::object();
  list["object"] = "list";
  list["data"] = Json::array();
  for (const StoreSurvey::Session& session : sessions) {
    list["data"].push_back(SessionJson(session));
  }
  return list;
}

Json IdentitiesJson(const StoreSurvey& survey) {
  Json list = Json::object();
  list["object"] = "list";
  list["data"] = Json::array();
  for (const StoreSurvey::Identity& identity : survey.identities) {
    const StoreSurvey::TierPages all = AllPages(identity);
    Json tiers = Json::object();
    for (const Named<Tier>& tier : kTierNames) {
      const StoreSurvey::TierPages& pages = identity.tiers.at(static_cast<size_t>(tier.value));
      tiers[tier.name] = {{"pages", pages.num_pages}, {"bytes", pages.bytes}};
    }
    list["data"].push_back({{"identity", HexDigits(identity.hash)},
                            {"pages", all.num_pages},
                            {"bytes", all.bytes},
                            {"tiers", std::move(tiers)},
                            {"oldest_use", identity.oldest_use_unix},
                            {"latest_use", identity.latest_use_unix},
                            {"sessions", identity.num_sessions},
                            {"unreadable_pages", identity.num_unreadable_pages},
                            {"unreadable_sessions", identity.num_unreadable_sessions}});
  }
  return list;
}

}  // namespace thermocline
