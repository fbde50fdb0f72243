// Logits of every position of one prompt, for the oracle test: reads token ids from standard input,
// writes float32 [num_tokens, vocab_size] to standard output.
//   logits_dump MODEL reference|cpu < ids

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/loader/gguf.h"
#include "engine/model/transformer.h"
#include "kernels/cpu/cpu_device.h"

int main(int argc, char** argv) {
  using namespace thermocline;  // NOLINT: a program of one function
  if (argc != 3) {
    return 2;
  }
  std::vector<TokenId> tokens;
  for (TokenId token = 0; std::cin >> token;) {
    tokens.push_back(token);
  }
  const auto num_tokens = static_cast<int>(tokens.size());
  const auto file = GgufFile::Open(argv[1]).value();
  const ModelConfig config = ReadModelConfig(*file).value();
  const auto device =
      CpuDevice::Create({.num_threads = 2, .reference = std::string(argv[2]) == "reference"})
          .value();
  Transformer model =
      Transformer::Load(config, *file, *device, device->ops(), num_tokens, {}).value();
  const KvLayout layout = MakeKvLayout(config, 64);
  const KvFormats formats = DefaultKvFormats(layout);
  const uint32_t page_bytes = PageBytes(layout, formats)[static_cast<size_t>(Tier::kHot)];
  const int num_pages = (num_tokens + 63) / 64;
  const KvCache cache =
      KvCache::Create(*device, layout, formats, static_cast<uint64_t>(num_pages) * page_bytes)
          .value();
  std::vector<PageEntry> page_map;
  std::vector<PageId> pages;
  for (int i = 0; i < num_pages; ++i) {
    page_map.emplace_back(
        Tier::kHot, static_cast<uint32_t>(i) * static_cast<uint32_t>(page_bytes / kArenaUnitBytes));
    pages.push_back(static_cast<PageId>(i));
  }
  std::vector<int32_t> positions;
  for (int i = 0; i < num_tokens; ++i) {
    positions.push_back(i);
  }
  const std::vector<int32_t> starts = {0, num_tokens};
  const std::vector<int32_t> page_starts = {0, num_pages};
  const BatchView batch{.num_tokens = num_tokens,
                        .num_sequences = 1,
                        .sequence_starts = starts.data(),
                        .positions = positions.data(),
                        .page_starts = page_starts.data(),
                        .page_ids = pages.data()};
  const auto stream = device->NewStream();
  model.Forward(tokens, batch, cache.view(page_map), *stream);
  for (int32_t row = 0; row < num_tokens; ++row) {
    const Tensor logits = model.ComputeLogits(std::span(&row, 1), *stream);
    std::fwrite(logits.f32(), sizeof(float), static_cast<size_t>(config.vocab_size), stdout);
  }
  return 0;
}
