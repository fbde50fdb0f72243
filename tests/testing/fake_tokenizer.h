#pragma once

#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace thermocline {

// A vocabulary of given texts. Token 0 ends generation and has no text.
class FakeTokenizer : public Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<std::string> texts) : texts_(std::move(texts)) {}
  // Tokens 1.. are " w1", " w2", ...
  explicit FakeTokenizer(int vocab_size) : texts_(1) {
    for (int i = 1; i < vocab_size; ++i) {
      texts_.push_back(" w" + std::to_string(i));
    }
  }

  // One token per byte: its value within the vocabulary.
  std::vector<TokenId> Encode(std::string_view text, SpecialTokens /*special*/,
                              std::span<const ByteRange> /*plain_ranges*/) const override {
    std::vector<TokenId> tokens;
    for (const char byte : text) {
      tokens.push_back(static_cast<unsigned char>(byte) % vocab_size());
    }
    return tokens;
  }
  std::string_view TokenBytes(TokenId token, bool /*show_special*/) const override {
    return token >= 0 && token < vocab_size() ? std::string_view(texts_[static_cast<size_t>(token)])
                                              : std::string_view();
  }
  int vocab_size() const override { return static_cast<int>(texts_.size()); }
  std::optional<TokenId> bos() const override { return std::nullopt; }
  bool adds_bos() const override { return false; }
  bool IsEndOfGeneration(TokenId token) const override { return token == 0; }
  bool IsSpecial(TokenId token) const override { return token == 0; }

 private:
  std::vector<std::string> texts_;
};

}  // namespace thermocline
