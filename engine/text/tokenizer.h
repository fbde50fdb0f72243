#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/base/token.h"

namespace thermocline {

class Checkpoint;

// Bytes [begin, end) of a text.
struct ByteRange {
  size_t begin = 0;
  size_t end = 0;
};

// Whether text that spells a control token (`<|im_end|>`) becomes that token. Only text that a
// chat template wrote is kParse; what a user typed is kPlain, so that it cannot forge a turn.
// Added tokens that are not control tokens (GGUF: USER_DEFINED) are always found, as HF does.
enum class SpecialTokens { kPlain, kParse };

// Text to tokens and back. Immutable after creation, so any thread may use it.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // `text` (less than 2^31 bytes) is UTF-8; other bytes are encoded as byte tokens. Nothing is lost
  // but bytes that the vocabulary has no token for. Adds nothing of its own: see bos().
  // With kParse, control tokens that touch one of `plain_ranges` (ascending) stay plain text.
  virtual std::vector<TokenId> Encode(std::string_view text, SpecialTokens special,
                                      std::span<const ByteRange> plain_ranges = {}) const = 0;

  // A lower bound of the number of tokens of `text`. It is cheap: bytes are counted, nothing is
  // encoded. 0 where no bound is known.
  virtual size_t MinTokens(std::string_view text) const {
    (void)text;
    return 0;
  }

  // The bytes of one token; none for an id outside the vocabulary. Control tokens give their
  // spelling only when `show_special`.
  virtual std::string_view TokenBytes(TokenId token, bool show_special) const = 0;

  virtual int vocab_size() const = 0;
  virtual std::optional<TokenId> bos() const = 0;
  virtual bool adds_bos() const = 0;  // whether a raw prompt starts with bos
  virtual bool IsEndOfGeneration(TokenId token) const = 0;
  virtual bool IsSpecial(TokenId token) const = 0;

  // All of `tokens` as text; malformed UTF-8 is replaced by U+FFFD.
  std::string Decode(std::span<const TokenId> tokens, bool show_special) const;
};

// Overrides what the checkpoint says.
struct TokenizerOptions {
  std::string pre_tokenizer;  // in place of tokenizer.ggml.pre, when not empty
};

// The tokenizer of a checkpoint: byte-level BPE (tokenizer.ggml.model "gpt2"). kUnimplemented for
// other models and for pre-tokenizers that we do not have; kInvalidArgument naming the field for a
// vocabulary that is not sound. Keeps nothing of the checkpoint.
Result<std::unique_ptr<Tokenizer>> LoadTokenizer(const Checkpoint& checkpoint,
                                                 const TokenizerOptions& options = {});

}  // namespace thermocline
