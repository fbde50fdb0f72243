#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/token.h"

namespace thermocline {

// The tokens of conversations that clients have named, so that they can be saved by name later.
// Holds the kMaxSessions that were heard of last. Not thread-safe: the engine thread's.
class SessionTable {
 public:
  static constexpr size_t kMaxSessions = 1024;

  void Note(const std::string& tenant, const std::string& id, std::vector<TokenId> tokens);
  // Null: not known.
  const std::vector<TokenId>* Find(const std::string& tenant, const std::string& id) const;

 private:
  struct Known {
    std::vector<TokenId> tokens;
    uint64_t last_use = 0;
  };
  std::map<std::pair<std::string, std::string>, Known> sessions_;  // [tenant, id]
  uint64_t clock_ = 0;
};

}  // namespace thermocline
