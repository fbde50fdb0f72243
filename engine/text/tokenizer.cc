#include "engine/text/tokenizer.h"

#include <optional>
#include <utility>

#include "engine/loader/checkpoint.h"
#include "engine/text/byte_level_tokenizer.h"
#include "engine/text/detokenizer.h"
#include "engine/text/nfc.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/vocabulary.h"
#include "kernels/base/printable.h"

namespace thermocline {
namespace {

constexpr std::string_view kModel = "tokenizer.ggml.model";
constexpr std::string_view kPre = "tokenizer.ggml.pre";
constexpr std::string_view kCharsmap = "tokenizer.ggml.precompiled_charsmap";

// These keys ask for something that changes the tokens of a text, and that we do not do.
constexpr std::string_view kUnsupported[] = {
    "tokenizer.ggml.add_eos_token",        "tokenizer.ggml.add_sep_token",
    "tokenizer.ggml.add_space_prefix",     "tokenizer.ggml.remove_extra_whitespaces",
    "tokenizer.ggml.normalizer.lowercase",
};

Status CheckUnsupported(const Checkpoint& checkpoint) {
  for (const std::string_view key : kUnsupported) {
    const Result<bool> value = checkpoint.ReadBool(key);
    if (!value.ok() && value.status().code() != StatusCode::kNotFound) {
      return value.status();
    }
    if (value.ok() && *value) {
      return Unimplemented("{}: true is not supported for byte-level BPE", key);
    }
  }
  const Result<std::vector<int64_t>> charsmap = checkpoint.ReadInts(kCharsmap);
  if (charsmap.ok() ? !charsmap->empty() : charsmap.status().code() != StatusCode::kNotFound) {
    return Unimplemented("{}: is not supported for byte-level BPE", kCharsmap);
  }
  return {};
}

// The name of the pre-tokenizer. Early GGUF files of GPT-2's kind name none.
Result<std::string> PreTokenizerName(const Checkpoint& checkpoint,
                                     const TokenizerOptions& options) {
  if (!options.pre_tokenizer.empty()) {
    return options.pre_tokenizer;
  }
  Result<std::string> name = checkpoint.ReadString(kPre);
  if (!name.ok() && name.status().code() == StatusCode::kNotFound) {
    return std::string("default");
  }
  return name;
}

}  // namespace

std::string Tokenizer::Decode(std::span<const TokenId> tokens, bool show_special) const {
  StreamingDetokenizer detokenizer(*this, show_special);
  std::string text;
  for (TokenId token : tokens) {
    text += detokenizer.Add(token);
  }
  return text += detokenizer.Flush();
}

Result<std::unique_ptr<Tokenizer>> LoadTokenizer(const Checkpoint& checkpoint,
                                                 const TokenizerOptions& options) {
  const Result<std::string> model = checkpoint.ReadString(kModel);
  if (!model.ok()) {
    return InvalidArgument("{}", model.status().message());
  }
  if (*model != "gpt2") {
    return Unimplemented("{}: \"{}\" (there is gpt2, byte-level BPE)", kModel,
                         Printable(*model, 40));
  }
  RETURN_IF_ERROR(CheckUnsupported(checkpoint));
  const Result<std::string> name = PreTokenizerName(checkpoint, options);
  if (!name.ok()) {
    return name.status();
  }
  Result<PreTokenizer> pre_tokenizer = PreTokenizer::Create(*name);
  if (!pre_tokenizer.ok()) {
    return Status(pre_tokenizer.status().code(),
                  fmt::format("{}: {}", kPre, pre_tokenizer.status().message()));
  }
  std::optional<NfcNormalizer> nfc;
  if (pre_tokenizer->normalizes_nfc()) {
    Result<NfcNormalizer> created = NfcNormalizer::Create();
    if (!created.ok()) {
      return created.status();
    }
    nfc = *std::move(created);
  }
  Result<Vocabulary> vocabulary = Vocabulary::Read(checkpoint);
  if (!vocabulary.ok()) {
    return vocabulary.status();
  }
  return std::unique_ptr<Tokenizer>(std::make_unique<ByteLevelTokenizer>(
      *std::move(vocabulary), *std::move(pre_tokenizer), std::move(nfc)));
}

}  // namespace thermocline
