#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/nfc.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

namespace thermocline {

// GPT-2's kind of tokenizer, as HF tokenizers runs it: added tokens are cut out of the text, what
// is between is normalised and cut into words, and each word is merged from its bytes.
class ByteLevelTokenizer : public Tokenizer {
 public:
  ByteLevelTokenizer(Vocabulary vocabulary, PreTokenizer pre_tokenizer,
                     std::optional<NfcNormalizer> nfc);
  ByteLevelTokenizer(const ByteLevelTokenizer&) = delete;  // encoder_ refers to vocabulary_
  ByteLevelTokenizer& operator=(const ByteLevelTokenizer&) = delete;

  std::vector<TokenId> Encode(std::string_view text, SpecialTokens special,
                              std::span<const ByteRange> plain_ranges) const override;
  size_t MinTokens(std::string_view text) const override;
  std::string_view TokenBytes(TokenId token, bool show_special) const override;
  int vocab_size() const override { return vocabulary_.size(); }
  std::optional<TokenId> bos() const override { return vocabulary_.bos(); }
  bool adds_bos() const override;
  bool IsEndOfGeneration(TokenId token) const override;
  bool IsSpecial(TokenId token) const override;

 private:
  void EncodeBetween(std::string_view text, WordSplitter& splitter,
                     std::vector<TokenId>& out) const;
  void EncodeWords(std::string_view text, WordSplitter& splitter, std::vector<TokenId>& out) const;

  Vocabulary vocabulary_;
  PreTokenizer pre_tokenizer_;
  std::optional<NfcNormalizer> nfc_;  // for the styles that normalise
  AddedTokens added_tokens_;
  BytePairEncoder encoder_;
  size_t longest_token_bytes_ = 1;
  bool has_all_bytes_ = true;  // a token for each
};

}  // namespace thermocline
