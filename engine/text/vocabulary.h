#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/loader/checkpoint.h"
#include "kernels/base/status.h"
#include "kernels/base/token.h"

namespace thermocline {

// tokenizer.ggml.token_type, with GGUF's numbers.
enum class TokenKind : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// `left` followed by `right` may become `result`. Rank is the position in the list: lower goes
// first.
struct TokenMerge {
  TokenId left = 0;
  TokenId right = 0;
  TokenId result = 0;
};

// The tables of a byte-level BPE vocabulary, read from a checkpoint and checked. Immutable.
class Vocabulary {
 public:
  // kInvalidArgument naming the field that is absent or bad. Merges are of byte-level tokens only,
  // so no text merges into a control token.
  static Result<Vocabulary> Read(const Checkpoint& checkpoint);

  int size() const { return static_cast<int>(kinds_.size()); }
  bool Contains(TokenId token) const { return token >= 0 && token < size(); }

  // `token` is one that the vocabulary has.
  TokenKind kind(TokenId token) const { return kinds_[static_cast<size_t>(token)]; }
  bool IsSpecial(TokenId token) const;
  bool IsEndOfGeneration(TokenId token) const;
  // What the token stands for in a text; nothing for an unused one.
  std::string_view bytes(TokenId token) const;

  // Whether the token is part of the byte pair encoding: a normal one, spelled in the alphabet of
  // byte_alphabet.h.
  bool IsByteLevel(TokenId token) const { return is_byte_level_[static_cast<size_t>(token)]; }

  // The token of a single byte; -1 where the vocabulary has none.
  const std::array<TokenId, 256>& byte_tokens() const { return byte_tokens_; }
  const std::vector<TokenMerge>& merges() const { return merges_; }
  std::optional<TokenId> bos() const { return bos_; }
  std::optional<bool> adds_bos() const { return adds_bos_; }  // when the checkpoint says so

 private:
  class Reader;  // builds one

  std::vector<TokenKind> kinds_;
  std::vector<bool> is_byte_level_;
  std::string bytes_;              // all tokens' bytes, one token after another
  std::vector<uint32_t> offsets_;  // [size + 1] into bytes_
  std::array<TokenId, 256> byte_tokens_{};
  std::vector<TokenMerge> merges_;
  std::vector<TokenId> end_of_generation_;  // ascending
  std::optional<TokenId> bos_;
  std::optional<bool> adds_bos_;
};

}  // namespace thermocline
