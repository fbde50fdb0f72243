#include "engine/text/nfc.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/text/utf8.h"
#include "kernels/base/check.h"

namespace thermocline {
namespace {

// Beyond this many combining marks in a row we sort them ourselves. ICU sorts by insertion: quick
// for what people write, hours for the megabytes of marks that an attacker may send.
constexpr size_t kMaxMarksForIcu = 64;

struct Mark {
  char32_t code_point = 0;
  uint8_t combining_class = 0;
};

icu::StringPiece ToStringPiece(std::string_view text) {
  CHECK(text.size() < (size_t{1} << 31));
  return {text.data(), static_cast<int32_t>(text.size())};
}

// The full canonical decomposition of a character, which may be itself.
void Decompose(const icu::Normalizer2& nfc, char32_t code_point, std::vector<Mark>& marks) {
  const auto append = [&](UChar32 c) {
    marks.push_back({static_cast<char32_t>(c), nfc.getCombiningClass(c)});
  };
  icu::UnicodeString decomposed;
  if (!nfc.getDecomposition(static_cast<UChar32>(code_point), decomposed)) {
    append(static_cast<UChar32>(code_point));
    return;
  }
  for (int32_t i = 0; i < decomposed.length(); i = decomposed.moveIndex32(i, 1)) {
    append(decomposed.char32At(i));
  }
}

// Writes a run of marks in canonical order.
void FlushMarks(std::vector<Mark>& marks, std::string& out) {
  std::stable_sort(marks.begin(), marks.end(), [](const Mark& a, const Mark& b) {
    return a.combining_class < b.combining_class;
  });
  for (const Mark& mark : marks) {
    AppendUtf8(mark.code_point, out);
  }
  marks.clear();
}

// A canonically equivalent text whose long runs of marks are in order, so that ICU has nothing left
// to move; nothing when no run is long.
std::optional<std::string> OrderLongRuns(const icu::Normalizer2& nfc, std::string_view text) {
  std::string out;
  std::vector<Mark> marks;
  std::vector<Mark> decomposed;
  size_t longest = 0;
  size_t run_begin = 0;
  const auto end_run = [&](size_t pos) {
    longest = std::max(longest, marks.size());
    if (marks.size() > kMaxMarksForIcu) {
      FlushMarks(marks, out);
    } else {
      marks.clear();
      out += text.substr(run_begin, pos - run_begin);
    }
  };
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = DecodeUtf8(text.substr(pos));
    decomposed.clear();
    if (unit.code_point >= 0x300) {
      Decompose(nfc, unit.code_point, decomposed);  // first mark
    }
    const bool is_mark = !decomposed.empty() && decomposed.front().combining_class != 0;
    if (is_mark) {
      if (marks.empty()) {
        run_begin = pos;
      }
      marks.insert(marks.end(), decomposed.begin(), decomposed.end());
    } else {
      if (!marks.empty()) {
        end_run(pos);
      }
      out += text.substr(pos, unit.num_bytes);
    }
    pos += unit.num_bytes;
  }
  if (!marks.empty()) {
    end_run(text.size());
  }
  if (longest <= kMaxMarksForIcu) {
    return std::nullopt;
  }
  return out;
}

}  // namespace

struct NfcNormalizer::Tables {
  icu::UnicodeSet known;                      // assigned in Unicode 9 or before
  const icu::Normalizer2* current = nullptr;  // ICU owns it
  std::optional<icu::FilteredNormalizer2> nfc;
};

Result<NfcNormalizer> NfcNormalizer::Create() {
  UErrorCode error = U_ZERO_ERROR;
  auto tables = std::make_unique<Tables>();
  tables->current = icu::Normalizer2::getNFCInstance(error);
  tables->known.applyPattern(icu::UnicodeString("[:age=9.0:]"), error);
  if (U_FAILURE(error)) {
    return Internal("ICU's NFC tables: {}", u_errorName(error));
  }
  tables->known.freeze();
  tables->nfc.emplace(*tables->current, tables->known);
  return NfcNormalizer(std::move(tables));
}

NfcNormalizer::NfcNormalizer(std::unique_ptr<const Tables> tables) : tables_(std::move(tables)) {}
NfcNormalizer::NfcNormalizer(NfcNormalizer&& other) noexcept = default;
NfcNormalizer& NfcNormalizer::operator=(NfcNormalizer&& other) noexcept = default;
NfcNormalizer::~NfcNormalizer() = default;

std::optional<std::string> NfcNormalizer::Normalize(std::string_view text) const {
  const icu::Normalizer2& nfc = *tables_->nfc;
  // Nothing below U+0300 ever changes or moves: those lead bytes are below 0xcc.
  const bool is_latin = std::all_of(text.begin(), text.end(),
                                    [](char byte) { return static_cast<uint8_t>(byte) < 0xcc; });
  if (is_latin) {
    return std::nullopt;
  }
  UErrorCode error = U_ZERO_ERROR;
  const std::optional<std::string> ordered = OrderLongRuns(nfc, text);
  const std::string_view source = ordered ? std::string_view(*ordered) : text;
  std::string normalized;
  icu::StringByteSink<std::string> sink(&normalized, static_cast<int32_t>(source.size()));
  nfc.normalizeUTF8(0, ToStringPiece(source), sink, nullptr, error);
  if (U_FAILURE(error)) {
    return std::nullopt;  // out of memory: nothing is lost, only cut differently
  }
  if (normalized == text) {
    return std::nullopt;
  }
  return normalized;
}

}  // namespace thermocline
