#include "engine/kv/session_table.h"

#include <algorithm>

namespace thermocline {

void SessionTable::Note(const std::string& tenant, const std::string& id,
                        std::vector<TokenId> tokens) {
  sessions_[{tenant, id}] = {.tokens = std::move(tokens), .last_use = ++clock_};
  if (sessions_.size() > kMaxSessions) {
    sessions_.erase(std::min_element(
        sessions_.begin(), sessions_.end(),
        [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; }));
  }
}

const std::vector<TokenId>* SessionTable::Find(const std::string& tenant,
                                               const std::string& id) const {
  const auto found = sessions_.find({tenant, id});
  return found == sessions_.end() ? nullptr : &found->second.tokens;
}

}  // namespace thermocline
