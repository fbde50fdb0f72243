#include "tests/engine/text/test_vocabulary.h"

#include "engine/text/byte_alphabet.h"
#include "engine/text/utf8.h"

namespace thermocline {
namespace {

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";

}  // namespace

int64_t AddToken(MemoryCheckpoint& checkpoint, const std::string& name, int64_t type) {
  auto& tokens = checkpoint.Get<std::vector<std::string>>(kTokens);
  tokens.push_back(name);
  checkpoint.Get<std::vector<int64_t>>(kTypes).push_back(type);
  return static_cast<int64_t>(tokens.size()) - 1;
}

MemoryCheckpoint TestVocabulary() {
  MemoryCheckpoint checkpoint;
  checkpoint.Set("tokenizer.ggml.model", std::string("gpt2"));
  checkpoint.Set("tokenizer.ggml.pre", std::string("gpt-2"));
  checkpoint.Set(kTokens, std::vector<std::string>());
  checkpoint.Set(kTypes, std::vector<int64_t>());
  for (int byte = 0; byte < 256; ++byte) {
    std::string letter;
    AppendUtf8(ByteToAlphabet(static_cast<uint8_t>(byte)), letter);
    AddToken(checkpoint, letter, 1);
  }
  std::vector<std::string> merges;
  const auto merge = [&](const std::string& left, const std::string& right) {
    AddToken(checkpoint, left + right, 1);
    merges.push_back(left + " " + right);
  };
  merge("h", "e");     // 256
  merge("l", "l");     // 257
  merge("he", "ll");   // 258
  merge("hell", "o");  // 259
  merge("Ġ", "t");     // 260
  merge("Ġt", "he");   // 261
  merge("a", "a");     // 262
  merge("aa", "aa");   // 263
  checkpoint.Set("tokenizer.ggml.merges", merges);
  AddToken(checkpoint, "<|im_start|>", 3);  // 264
  AddToken(checkpoint, "<|im_end|>", 3);    // 265
  AddToken(checkpoint, "<tool>", 4);        // 266
  AddToken(checkpoint, "<tool>s", 4);       // 267
  checkpoint.Set("tokenizer.ggml.bos_token_id", int64_t{264});
  checkpoint.Set("tokenizer.ggml.eos_token_id", int64_t{0});
  return checkpoint;
}

}  // namespace thermocline
