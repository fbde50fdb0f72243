#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "kernels/base/status.h"

namespace thermocline {

// One way to cut text into the words that BPE never merges across, and what goes with it.
struct PreTokenizerStyle;

// A compiled style, named as `tokenizer.ggml.pre` names it. Immutable; any thread may use it.
class PreTokenizer {
 public:
  // kUnimplemented, with the names there are, when there is none of that name.
  static Result<PreTokenizer> Create(std::string_view name);

  PreTokenizer(PreTokenizer&& other) noexcept;
  PreTokenizer& operator=(PreTokenizer&& other) noexcept;
  ~PreTokenizer();

  bool normalizes_nfc() const;  // the text is to be brought to NFC first
  bool ignores_merges() const;  // a word that is a token is that token, whatever the merges say
  bool adds_bos() const;        // unless the checkpoint says otherwise

 private:
  friend class WordSplitter;
  struct Code;  // PCRE2's

  explicit PreTokenizer(std::unique_ptr<const Code> code);

  std::unique_ptr<const Code> code_;
};

// Walks over the words of texts. For one thread; the pre-tokenizer outlives it.
class WordSplitter {
 public:
  explicit WordSplitter(const PreTokenizer& pre_tokenizer);
  ~WordSplitter();
  WordSplitter(const WordSplitter&) = delete;
  WordSplitter& operator=(const WordSplitter&) = delete;

  // `text` is valid UTF-8 and stays where it is until it has been walked over.
  void Start(std::string_view text);
  // The next word; empty at the end. The words in order are the text.
  std::string_view Next();

 private:
  struct Scratch;  // PCRE2's

  const PreTokenizer::Code& code_;
  std::unique_ptr<Scratch> scratch_;
  std::string_view text_;
  size_t pos_ = 0;
};

}  // namespace thermocline
