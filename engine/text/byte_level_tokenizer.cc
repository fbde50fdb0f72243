#include "engine/text/byte_level_tokenizer.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "engine/text/utf8.h"

namespace thermocline {

ByteLevelTokenizer::ByteLevelTokenizer(Vocabulary vocabulary, PreTokenizer pre_tokenizer,
                                       std::optional<NfcNormalizer> nfc)
    : vocabulary_(std::move(vocabulary)),
      pre_tokenizer_(std::move(pre_tokenizer)),
      nfc_(std::move(nfc)),
      added_tokens_(vocabulary_),
      encoder_(vocabulary_, pre_tokenizer_.ignores_merges()) {
  for (TokenId token = 0; token < vocabulary_.size(); ++token) {
    longest_token_bytes_ = std::max(longest_token_bytes_, vocabulary_.bytes(token).size());
  }
  const auto& byte_tokens = vocabulary_.byte_tokens();
  has_all_bytes_ =
      std::all_of(byte_tokens.begin(), byte_tokens.end(), [](TokenId token) { return token >= 0; });
}

std::vector<TokenId> ByteLevelTokenizer::Encode(std::string_view text, SpecialTokens special,
                                                std::span<const ByteRange> plain_ranges) const {
  std::vector<TokenId> tokens;
  tokens.reserve(text.size() / 4 + 4);  // English has a token every four to five bytes
  WordSplitter splitter(pre_tokenizer_);
  size_t pos = 0;
  while (const auto match = added_tokens_.Find(text, pos, special, plain_ranges)) {
    EncodeBetween(text.substr(pos, match->begin - pos), splitter, tokens);
    tokens.push_back(match->token);
    pos = match->end;
  }
  EncodeBetween(text.substr(pos), splitter, tokens);
  return tokens;
}

void ByteLevelTokenizer::EncodeBetween(std::string_view text, WordSplitter& splitter,
                                       std::vector<TokenId>& out) const {
  while (!text.empty()) {
    const size_t num_valid = ValidUtf8Prefix(text);
    EncodeWords(text.substr(0, num_valid), splitter, out);
    text.remove_prefix(num_valid);
    if (text.empty()) {
      break;
    }
    const Utf8Unit malformed = DecodeUtf8(text);
    for (char byte : text.substr(0, malformed.num_bytes)) {
      const TokenId token = vocabulary_.byte_tokens()[static_cast<uint8_t>(byte)];
      if (token >= 0) {
        out.push_back(token);
      }
    }
    text.remove_prefix(malformed.num_bytes);
  }
}

void ByteLevelTokenizer::EncodeWords(std::string_view text, WordSplitter& splitter,
                                     std::vector<TokenId>& out) const {
  const std::optional<std::string> normalized = nfc_ ? nfc_->Normalize(text) : std::nullopt;
  splitter.Start(normalized ? std::string_view(*normalized) : text);
  for (std::string_view word = splitter.Next(); !word.empty(); word = splitter.Next()) {
    encoder_.Encode(word, out);
  }
}

// Composing makes text shorter, at most seven bytes to two: U+1FBE U+0308 U+0301 is U+0390.
size_t ByteLevelTokenizer::MinTokens(std::string_view text) const {
  if (nfc_ && !has_all_bytes_) {
    return 0;
  }
  size_t num_bytes = text.size();
  if (!has_all_bytes_) {  // the others are left out of the tokens
    const auto& tokens = vocabulary_.byte_tokens();
    num_bytes = static_cast<size_t>(std::count_if(text.begin(), text.end(), [&](char byte) {
      return tokens[static_cast<uint8_t>(byte)] >= 0;
    }));
  }
  const size_t most_bytes = longest_token_bytes_ * (nfc_ ? 4 : 1);
  return (num_bytes + most_bytes - 1) / most_bytes;
}

std::string_view ByteLevelTokenizer::TokenBytes(TokenId token, bool show_special) const {
  if (!vocabulary_.Contains(token)) {
    return {};
  }
  if (vocabulary_.IsSpecial(token) && !show_special) {
    return {};
  }
  return vocabulary_.bytes(token);
}

bool ByteLevelTokenizer::adds_bos() const {
  return vocabulary_.bos() && vocabulary_.adds_bos().value_or(pre_tokenizer_.adds_bos());
}

bool ByteLevelTokenizer::IsEndOfGeneration(TokenId token) const {
  return vocabulary_.IsEndOfGeneration(token);
}

bool ByteLevelTokenizer::IsSpecial(TokenId token) const {
  return vocabulary_.Contains(token) && vocabulary_.IsSpecial(token);
}

}  // namespace thermocline
