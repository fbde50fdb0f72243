#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/base/status.h"

namespace thermocline {

// Unicode normalisation form C as HF tokenizers does it, with the tables of Unicode 9: a character
// assigned later is left as it is, for the models were trained on that. Time is linear but for the
// sorting of long runs of combining marks. Immutable; any thread may use it.
class NfcNormalizer {
 public:
  static Result<NfcNormalizer> Create();

  NfcNormalizer(NfcNormalizer&& other) noexcept;
  NfcNormalizer& operator=(NfcNormalizer&& other) noexcept;
  ~NfcNormalizer();

  // `text` (valid UTF-8) in NFC; nothing when it is in NFC already.
  std::optional<std::string> Normalize(std::string_view text) const;

 private:
  struct Tables;  // ICU's

  explicit NfcNormalizer(std::unique_ptr<const Tables> tables);

  std::unique_ptr<const Tables> tables_;
};

}  // namespace thermocline
