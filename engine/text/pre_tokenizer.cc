#include "engine/text/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/ranges.h>
#include <pcre2.h>

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/printable.h"

namespace thermocline {
namespace {

// Character classes as HF tokenizers has them (Oniguruma 6.9.10, Unicode 16). Debian 12's PCRE2 has
// Unicode 14, so what was assigned later is listed; to a newer PCRE2 the lists add nothing.
constexpr std::string_view kLetter =
    "\\p{L}\\x{1c89}\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}\\x{11240}"
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}"
    "\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"
    "\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}"
    "\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}"
    "\\x{31350}-\\x{323af}";
constexpr std::string_view kNumber =
    "\\p{N}\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}";
// Unicode's White_Space. PCRE2's \s has U+180E as well.
constexpr std::string_view kSpace =
    "\\t-\\r\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"
    "\\x{3000}";

// In the patterns, L, N and S stand for the insides of those classes. Each pattern matches at every
// position of any text, so the words are simply its matches. They are HF's patterns with repetition
// made possessive where nothing that follows could want a character back.
constexpr std::string_view kGpt2Pattern =
    "'(?:[stmd]|re|ve|ll)| ?[L]++| ?[N]++| ?[^SLN]++|[S]+(?![^S])|[S]++";
// HF cuts out every digit first and applies GPT-2's pattern to what is between. So here a digit is
// a word, and spaces before a digit stand at the end of their text.
constexpr std::string_view kSmolLmPattern =
    "'(?:[stmd]|re|ve|ll)| ?[L]++|[N]| ?[^SLN]++|[S]+(?![^SN])|[S]++";
constexpr std::string_view kLlama3Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\nLN]?[L]++|[N]{1,3}+| ?[^SLN]++[\\r\\n]*+|"
    "[S]*[\\r\\n]++|[S]+(?![^S])|[S]++";
constexpr std::string_view kQwen2Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\nLN]?[L]++|[N]| ?[^SLN]++[\\r\\n]*+|"
    "[S]*[\\r\\n]++|[S]+(?![^S])|[S]++";

std::string Expand(std::string_view pattern) {
  std::string expanded;
  for (char c : pattern) {
    switch (c) {
      case 'L':
        expanded += kLetter;
        break;
      case 'N':
        expanded += kNumber;
        break;
      case 'S':
        expanded += kSpace;
        break;
      default:
        expanded += c;
    }
  }
  return expanded;
}

}  // namespace

struct PreTokenizerStyle {
  std::string_view name;
  std::string_view pattern;
  bool normalizes_nfc = false;
  bool ignores_merges = false;
  bool adds_bos = false;
};

namespace {

constexpr PreTokenizerStyle kStyles[] = {
    {.name = "default", .pattern = kGpt2Pattern},
    {.name = "gpt-2", .pattern = kGpt2Pattern},
    {.name = "smollm", .pattern = kSmolLmPattern},
    {.name = "llama3", .pattern = kLlama3Pattern, .ignores_merges = true, .adds_bos = true},
    {.name = "llama-v3", .pattern = kLlama3Pattern, .ignores_merges = true, .adds_bos = true},
    {.name = "llama-bpe", .pattern = kLlama3Pattern, .ignores_merges = true, .adds_bos = true},
    {.name = "qwen2", .pattern = kQwen2Pattern, .normalizes_nfc = true},
};

std::string Pcre2Message(int error) {
  PCRE2_UCHAR8 message[256] = {};
  pcre2_get_error_message(error, message, sizeof(message));
  return reinterpret_cast<const char*>(message);
}

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

struct PreTokenizer::Code {
  const PreTokenizerStyle* style = nullptr;
  std::unique_ptr<pcre2_code, CodeDeleter> pattern;
  std::unique_ptr<pcre2_match_context, MatchContextDeleter> context;
  bool has_jit = false;
};

struct WordSplitter::Scratch {
  std::unique_ptr<pcre2_match_data, MatchDataDeleter> match;
};

Result<PreTokenizer> PreTokenizer::Create(std::string_view name) {
  auto code = std::make_unique<Code>();
  std::vector<std::string_view> names;
  for (const PreTokenizerStyle& style : kStyles) {
    names.push_back(style.name);
    if (style.name == name) {
      code->style = &style;
    }
  }
  if (code->style == nullptr) {
    return Unimplemented("pre-tokenizer \"{}\" (there are {})", Printable(name, 40),
                         fmt::join(names, ", "));
  }
  const std::string pattern = Expand(code->style->pattern);
  int error = 0;
  size_t offset = 0;
  code->pattern.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                    PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset,
                                    nullptr));
  if (code->pattern == nullptr) {
    return Internal("the pattern of pre-tokenizer \"{}\" at {}: {}", name, offset,
                    Pcre2Message(error));
  }
  code->has_jit = pcre2_jit_compile(code->pattern.get(), PCRE2_JIT_COMPLETE) == 0;
  code->context.reset(pcre2_match_context_create(nullptr));
  if (code->context == nullptr) {
    return ResourceExhausted("no memory for PCRE2's match context");
  }
  // The patterns are linear; what the limits guard against cannot happen.
  pcre2_set_match_limit(code->context.get(), std::numeric_limits<uint32_t>::max());
  pcre2_set_depth_limit(code->context.get(), std::numeric_limits<uint32_t>::max());
  return PreTokenizer(std::move(code));
}

PreTokenizer::PreTokenizer(std::unique_ptr<const Code> code) : code_(std::move(code)) {}
PreTokenizer::PreTokenizer(PreTokenizer&& other) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&& other) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

bool PreTokenizer::normalizes_nfc() const { return code_->style->normalizes_nfc; }
bool PreTokenizer::ignores_merges() const { return code_->style->ignores_merges; }
bool PreTokenizer::adds_bos() const { return code_->style->adds_bos; }

WordSplitter::WordSplitter(const PreTokenizer& pre_tokenizer)
    : code_(*pre_tokenizer.code_), scratch_(std::make_unique<Scratch>()) {
  scratch_->match.reset(pcre2_match_data_create(1, nullptr));
  CHECK(scratch_->match != nullptr);  // a hundred bytes
}

WordSplitter::~WordSplitter() = default;

void WordSplitter::Start(std::string_view text) {
  text_ = text;
  pos_ = 0;
}

std::string_view WordSplitter::Next() {
  if (pos_ == text_.size()) {
    return {};
  }
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  pcre2_match_data* match = scratch_->match.get();
  pcre2_match_context* context = code_.context.get();
  const pcre2_code* pattern = code_.pattern.get();
  int count = code_.has_jit ? pcre2_jit_match(pattern, subject, text_.size(), pos_,
                                              PCRE2_NO_UTF_CHECK, match, context)
                            : PCRE2_ERROR_JIT_BADOPTION;
  if (count < 0) {
    // No JIT on this machine, or its stack was too small; the interpreter's is on the heap.
    count = pcre2_match(pattern, subject, text_.size(), pos_, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        match, context);
  }
  const size_t begin = pos_;
  const size_t* offsets = pcre2_get_ovector_pointer(match);
  // Out of memory even so: the rest is one word. Nothing is lost, it is only cut differently.
  pos_ = count > 0 && offsets[1] > begin ? offsets[1] : text_.size();
  return text_.substr(begin, pos_ - begin);
}

}  // namespace thermocline
