#include "engine/text/vocabulary.h"

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "engine/text/byte_alphabet.h"
#include "engine/text/utf8.h"
#include "kernels/base/printable.h"

namespace thermocline {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTokenTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kMerges = "tokenizer.ggml.merges";

// Bounds what an absurd file can make us allocate; the largest vocabularies have 2^18 tokens.
constexpr size_t kMaxTokens = size_t{1} << 22;
constexpr size_t kMaxTokenBytes = size_t{1} << 16;
constexpr size_t kMaxVocabularyBytes = std::numeric_limits<int32_t>::max();

// Control tokens that end an answer whatever the metadata says: chat models name one of them in
// eos_token_id and close their turns with another.
constexpr std::string_view kEndOfGenerationNames[] = {
    "<|im_end|>",      "<|eot_id|>", "<|eom_id|>",    "<|endoftext|>",
    "<|end_of_text|>", "<|end|>",    "<end_of_turn>",
};

constexpr std::string_view kBosId = "tokenizer.ggml.bos_token_id";
constexpr std::string_view kEosId = "tokenizer.ggml.eos_token_id";
constexpr std::string_view kEotId = "tokenizer.ggml.eot_token_id";
constexpr std::string_view kEomId = "tokenizer.ggml.eom_token_id";

// Whether the text is spelled like a control token: "<s>", "<|im_end|>", "[BOS]".
bool IsMark(std::string_view name) {
  return name.size() > 2 && ((name.front() == '<' && name.back() == '>') ||
                             (name.front() == '[' && name.back() == ']'));
}

// What is absent or of the wrong type is an invalid file, not a failed look-up.
Status Invalid(const Status& status) { return {StatusCode::kInvalidArgument, status.message()}; }

// "<0x0A>" as llama.cpp's converters name byte tokens.
std::optional<uint8_t> ByteOfName(std::string_view name) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (name.size() != 6 || name.substr(0, 3) != "<0x" || name[5] != '>') {
    return std::nullopt;
  }
  const size_t high = kDigits.find(name[3]);
  const size_t low = kDigits.find(name[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) {
    return std::nullopt;
  }
  return static_cast<uint8_t>(high << 4 | low);
}

}  // namespace

class Vocabulary::Reader {
 public:
  explicit Reader(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  Result<Vocabulary> Read() {
    RETURN_IF_ERROR(ReadNames());
    RETURN_IF_ERROR(ReadKinds());
    RETURN_IF_ERROR(SpellTokens());
    FindByteTokens();
    RETURN_IF_ERROR(ReadMerges());
    RETURN_IF_ERROR(ReadRoles());
    return std::move(vocabulary_);
  }

 private:
  Status ReadNames() {
    Result<std::vector<std::string>> names = checkpoint_.ReadStrings(kTokens);
    if (!names.ok()) {
      return Invalid(names.status());
    }
    names_ = *std::move(names);
    if (names_.empty() || names_.size() > kMaxTokens) {
      return InvalidArgument("{}: {} tokens, expected 1 to {}", kTokens, names_.size(), kMaxTokens);
    }
    ids_.reserve(names_.size());
    for (size_t i = 0; i < names_.size(); ++i) {
      const std::string& name = names_[i];
      if (name.size() > kMaxTokenBytes) {
        return InvalidArgument("{}[{}]: {} bytes, at most {}", kTokens, i, name.size(),
                               kMaxTokenBytes);
      }
      if (ValidUtf8Prefix(name) != name.size()) {
        return InvalidArgument("{}[{}]: not UTF-8", kTokens, i);
      }
      const auto [other, is_new] = ids_.try_emplace(name, static_cast<TokenId>(i));
      if (!is_new) {
        return InvalidArgument("{}[{}]: \"{}\" is token {} already", kTokens, i, Printable(name),
                               other->second);
      }
    }
    return {};
  }

  Status ReadKinds() {
    const Result<std::vector<int64_t>> types = checkpoint_.ReadInts(kTokenTypes);
    if (types.status().code() == StatusCode::kNotFound) {
      return AssumeKinds();
    }
    if (!types.ok()) {
      return Invalid(types.status());
    }
    if (types->size() != names_.size()) {
      return InvalidArgument("{}: {} entries for {} tokens", kTokenTypes, types->size(),
                             names_.size());
    }
    vocabulary_.kinds_.reserve(types->size());
    for (size_t i = 0; i < types->size(); ++i) {
      const int64_t type = (*types)[i];
      if (type < 1 || type > 6) {
        return InvalidArgument("{}[{}]: {} is no token type (1 to 6)", kTokenTypes, i, type);
      }
      vocabulary_.kinds_.push_back(static_cast<TokenKind>(type));
    }
    return {};
  }

  // The types are optional. Without them all tokens are normal, except those that begin and end
  // texts: as normal tokens they could not be told from text that spells them.
  Status AssumeKinds() {
    vocabulary_.kinds_.assign(names_.size(), TokenKind::kNormal);
    for (std::string_view key : {kBosId, kEosId, kEotId, kEomId}) {
      std::optional<TokenId> id;
      RETURN_IF_ERROR(ReadId(key, id));
      if (id && IsMark(names_[static_cast<size_t>(*id)])) {
        vocabulary_.kinds_[static_cast<size_t>(*id)] = TokenKind::kControl;
      }
    }
    for (std::string_view name : kEndOfGenerationNames) {
      if (const auto found = ids_.find(name); found != ids_.end()) {
        vocabulary_.kinds_[static_cast<size_t>(found->second)] = TokenKind::kControl;
      }
    }
    return {};
  }

  Status SpellTokens() {
    vocabulary_.offsets_.reserve(names_.size() + 1);
    vocabulary_.offsets_.push_back(0);
    for (size_t i = 0; i < names_.size(); ++i) {
      std::optional<std::string> letters;
      if (vocabulary_.kinds_[i] == TokenKind::kNormal) {
        letters = BytesFromAlphabet(names_[i]);
      }
      vocabulary_.is_byte_level_.push_back(letters.has_value());
      Result<std::string> bytes = letters ? *std::move(letters) : Spell(i);
      if (!bytes.ok()) {
        return bytes.status();
      }
      vocabulary_.bytes_ += *bytes;
      if (vocabulary_.bytes_.size() > kMaxVocabularyBytes) {
        return InvalidArgument("{}: more than {} bytes in all", kTokens, kMaxVocabularyBytes);
      }
      vocabulary_.offsets_.push_back(static_cast<uint32_t>(vocabulary_.bytes_.size()));
    }
    return {};
  }

  // The text of a token that is not byte-level.
  Result<std::string> Spell(size_t i) const {
    const std::string& name = names_[i];
    switch (vocabulary_.kinds_[i]) {
      case TokenKind::kByte: {
        const std::optional<uint8_t> byte = ByteOfName(name);
        if (byte) {
          return std::string(1, static_cast<char>(*byte));
        }
        return InvalidArgument("{}[{}]: byte token \"{}\" is not named <0xXX>", kTokens, i,
                               Printable(name));
      }
      case TokenKind::kUnused:
        return std::string();
      case TokenKind::kNormal:  // outside the alphabet: its own text
      case TokenKind::kUnknown:
      case TokenKind::kControl:
      case TokenKind::kUserDefined:
        return name;
    }
    return name;
  }

  std::optional<TokenId> FindByteLevel(std::string_view name) const {
    const auto found = ids_.find(name);
    if (found == ids_.end() || !vocabulary_.IsByteLevel(found->second)) {
      return std::nullopt;
    }
    return found->second;
  }

  // A byte's letter of the alphabet, else its <0xXX>.
  void FindByteTokens() {
    vocabulary_.byte_tokens_.fill(-1);
    for (TokenId token = 0; token < vocabulary_.size(); ++token) {
      if (vocabulary_.kind(token) == TokenKind::kByte) {
        vocabulary_.byte_tokens_[static_cast<uint8_t>(vocabulary_.bytes(token)[0])] = token;
      }
    }
    for (size_t byte = 0; byte < 256; ++byte) {
      std::string letter;
      AppendUtf8(ByteToAlphabet(static_cast<uint8_t>(byte)), letter);
      if (const std::optional<TokenId> token = FindByteLevel(letter)) {
        vocabulary_.byte_tokens_[byte] = *token;
      }
    }
  }

  Status ReadMerges() {
    const Result<std::vector<std::string>> lines = checkpoint_.ReadStrings(kMerges);
    if (!lines.ok()) {
      return Invalid(lines.status());
    }
    if (lines->size() > kMaxTokens) {
      return InvalidArgument("{}: {} merges, at most {}", kMerges, lines->size(), kMaxTokens);
    }
    std::unordered_set<std::string_view> seen;
    seen.reserve(lines->size());
    vocabulary_.merges_.reserve(lines->size());
    for (size_t i = 0; i < lines->size(); ++i) {
      const std::string& line = (*lines)[i];
      Result<TokenMerge> merge = ParseMerge(i, line);
      if (!merge.ok()) {
        return merge.status();
      }
      if (!seen.insert(line).second) {
        return InvalidArgument("{}[{}]: \"{}\" is listed twice", kMerges, i, Printable(line));
      }
      vocabulary_.merges_.push_back(*merge);
    }
    return {};
  }

  Result<TokenMerge> ParseMerge(size_t i, std::string_view line) const {
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos) {
      return InvalidArgument("{}[{}]: \"{}\" is not two tokens with a space between", kMerges, i,
                             Printable(line));
    }
    const std::string_view left = line.substr(0, space);
    const std::string_view right = line.substr(space + 1);
    const std::string both = std::string(left) += right;
    TokenId ids[3] = {};
    const std::string_view parts[3] = {left, right, both};
    for (size_t part = 0; part < 3; ++part) {
      const std::optional<TokenId> id = FindByteLevel(parts[part]);
      if (!id) {
        return InvalidArgument("{}[{}]: \"{}\" is not a normal byte-level token of the vocabulary",
                               kMerges, i, Printable(parts[part]));
      }
      ids[part] = *id;
    }
    return TokenMerge{.left = ids[0], .right = ids[1], .result = ids[2]};
  }

  // Which tokens begin and end things.
  Status ReadRoles() {
    RETURN_IF_ERROR(ReadId(kBosId, vocabulary_.bos_));
    std::vector<TokenId>& ends = vocabulary_.end_of_generation_;
    for (std::string_view key : {kEosId, kEotId, kEomId}) {
      std::optional<TokenId> id;
      RETURN_IF_ERROR(ReadId(key, id));
      if (id) {
        ends.push_back(*id);
      }
    }
    for (std::string_view name : kEndOfGenerationNames) {
      const auto found = ids_.find(name);
      if (found != ids_.end() && vocabulary_.kind(found->second) == TokenKind::kControl) {
        ends.push_back(found->second);
      }
    }
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());

    constexpr std::string_view kAddBos = "tokenizer.ggml.add_bos_token";
    const Result<bool> adds_bos = checkpoint_.ReadBool(kAddBos);
    if (adds_bos.ok()) {
      vocabulary_.adds_bos_ = *adds_bos;
    } else if (adds_bos.status().code() != StatusCode::kNotFound) {
      return Invalid(adds_bos.status());
    }
    if (vocabulary_.adds_bos_ == true && !vocabulary_.bos_) {
      return InvalidArgument("{} is true but there is no {}", kAddBos, kBosId);
    }
    return {};
  }

  Status ReadId(std::string_view key, std::optional<TokenId>& id) const {
    const Result<int64_t> value = checkpoint_.ReadInt(key);
    if (!value.ok()) {
      return value.status().code() == StatusCode::kNotFound ? Status() : Invalid(value.status());
    }
    if (*value < 0 || *value >= vocabulary_.size()) {
      return InvalidArgument("{}: {} is outside the vocabulary of {} tokens", key, *value,
                             vocabulary_.size());
    }
    id = static_cast<TokenId>(*value);
    return {};
  }

  const Checkpoint& checkpoint_;
  Vocabulary vocabulary_;
  std::vector<std::string> names_;
  std::unordered_map<std::string_view, TokenId> ids_;  // into names_
};

Result<Vocabulary> Vocabulary::Read(const Checkpoint& checkpoint) {
  return Reader(checkpoint).Read();
}

bool Vocabulary::IsSpecial(TokenId token) const {
  return kind(token) == TokenKind::kControl || kind(token) == TokenKind::kUnknown;
}

bool Vocabulary::IsEndOfGeneration(TokenId token) const {
  return std::binary_search(end_of_generation_.begin(), end_of_generation_.end(), token);
}

std::string_view Vocabulary::bytes(TokenId token) const {
  const size_t i = static_cast<size_t>(token);
  return std::string_view(bytes_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
}

}  // namespace thermocline
