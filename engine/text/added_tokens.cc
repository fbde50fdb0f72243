#include "engine/text/added_tokens.h"

#include <algorithm>

namespace thermocline {
namespace {

bool Touches(std::span<const ByteRange> ranges, size_t begin, size_t end) {
  const auto next = std::partition_point(
      ranges.begin(), ranges.end(), [&](const ByteRange& range) { return range.end <= begin; });
  return next != ranges.end() && next->begin < end;
}

}  // namespace

AddedTokens::AddedTokens(const Vocabulary& vocabulary) : nodes_(1) {
  for (TokenId token = 0; token < vocabulary.size(); ++token) {
    const bool is_special = vocabulary.IsSpecial(token);
    const std::string_view spelling = vocabulary.bytes(token);
    if (spelling.empty()) {
      continue;
    }
    if (is_special || vocabulary.kind(token) == TokenKind::kUserDefined) {
      Add(spelling, token, is_special);
    }
  }
}

void AddedTokens::Add(std::string_view spelling, TokenId token, bool is_special) {
  uint32_t at = 0;
  for (char byte : spelling) {
    const Node* child = Child(nodes_[at], byte);
    if (child != nullptr) {
      at = static_cast<uint32_t>(child - nodes_.data());
      continue;
    }
    const uint32_t added = static_cast<uint32_t>(nodes_.size());
    nodes_[at].children.emplace_back(byte, added);
    nodes_.emplace_back();
    at = added;
  }
  nodes_[at].token = token;
  nodes_[at].is_special = is_special;
  for (SpecialTokens special : {SpecialTokens::kPlain, SpecialTokens::kParse}) {
    if (is_special && special == SpecialTokens::kPlain) {
      continue;
    }
    starts_[static_cast<size_t>(special)][static_cast<uint8_t>(spelling[0])] = true;
    any_[static_cast<size_t>(special)] = true;
  }
}

const AddedTokens::Node* AddedTokens::Child(const Node& node, char byte) const {
  for (const auto& [label, child] : node.children) {
    if (label == byte) {
      return &nodes_[child];
    }
  }
  return nullptr;
}

std::optional<AddedTokens::Match> AddedTokens::Find(std::string_view text, size_t from,
                                                    SpecialTokens special,
                                                    std::span<const ByteRange> plain_ranges) const {
  if (!any_[static_cast<size_t>(special)]) {
    return std::nullopt;
  }
  const std::array<bool, 256>& starts = starts_[static_cast<size_t>(special)];
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts[static_cast<uint8_t>(text[begin])]) {
      continue;
    }
    if (const std::optional<Match> match = MatchAt(text, begin, special, plain_ranges)) {
      return match;
    }
  }
  return std::nullopt;
}

std::optional<AddedTokens::Match> AddedTokens::MatchAt(
    std::string_view text, size_t begin, SpecialTokens special,
    std::span<const ByteRange> plain_ranges) const {
  std::optional<Match> longest;
  const Node* node = nodes_.data();
  for (size_t end = begin; end < text.size();) {
    node = Child(*node, text[end++]);
    if (node == nullptr) {
      break;
    }
    if (node->token < 0) {
      continue;
    }
    if (node->is_special &&
        (special == SpecialTokens::kPlain || Touches(plain_ranges, begin, end))) {
      continue;
    }
    longest = Match{node->token, begin, end};
  }
  return longest;
}

}  // namespace thermocline
