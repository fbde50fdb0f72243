// Tokenizes what a test sends: tokenizer_probe METADATA.json PRE. The file holds the metadata of a
// checkpoint (keys and values), PRE names the pre-tokenizer. Each line of the input is
// {"text": hex, "special": bool, "plain_ranges": [[begin, end], ...]}, each line of the output
// {"ids": [...], "decoded": text}.
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"
#include "tests/testing/memory_checkpoint.h"

namespace thermocline {
namespace {

using nlohmann::json;

MemoryCheckpoint::Value ToValue(const json& value) {
  if (value.is_boolean()) {
    return value.get<bool>();
  }
  if (value.is_number_integer()) {
    return value.get<int64_t>();
  }
  if (value.is_string()) {
    return value.get<std::string>();
  }
  if (!value.empty() && value.front().is_number()) {
    return value.get<std::vector<int64_t>>();
  }
  return value.get<std::vector<std::string>>();
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::string Answer(const Tokenizer& tokenizer, const json& question) {
  std::vector<ByteRange> plain_ranges;
  for (const json& range : question.at("plain_ranges")) {
    plain_ranges.push_back({range.at(0).get<size_t>(), range.at(1).get<size_t>()});
  }
  const bool special = question.at("special").get<bool>();
  const std::vector<TokenId> ids =
      tokenizer.Encode(FromHex(question.at("text").get<std::string>()),
                       special ? SpecialTokens::kParse : SpecialTokens::kPlain, plain_ranges);
  return json{{"ids", ids}, {"decoded", tokenizer.Decode(ids, /*show_special=*/true)}}.dump();
}

int Main(const std::string& metadata_path, const std::string& pre) {
  MemoryCheckpoint checkpoint;
  std::ifstream file(metadata_path);
  const json metadata = json::parse(file);
  for (const auto& [key, value] : metadata.items()) {
    checkpoint.Set(key, ToValue(value));
  }
  const auto tokenizer = LoadTokenizer(checkpoint, {.pre_tokenizer = pre});
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status().message() << '\n';
    return 1;
  }
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << Answer(**tokenizer, json::parse(line)) << '\n';
  }
  return 0;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: tokenizer_probe METADATA.json PRE\n";
    return 2;
  }
  return thermocline::Main(argv[1], argv[2]);
}
