// libFuzzer's entry: whatever the bytes are, opening them and reading the model's configuration and
// vocabulary gives a result or an error. Built by clang under the sanitizers.

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/loader/gguf.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using thermocline::GgufFile;
  const auto file = GgufFile::Parse(std::as_bytes(std::span(data, size)));
  if (file.ok()) {
    (void)thermocline::ReadModelConfig(*file.value()).ok();
    (void)thermocline::LoadTokenizer(*file.value()).ok();
  }
  return 0;
}
