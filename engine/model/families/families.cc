#include "engine/model/families/families.h"

#include <fmt/ranges.h>

#include <array>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/printable.h"

namespace thermocline {
namespace {

constexpr std::array kFamilies = {&kLlamaFamily};

}  // namespace

Result<const ModelFamily*> FindFamily(std::string_view architecture) {
  std::vector<std::string_view> names;
  for (const ModelFamily* family : kFamilies) {
    if (family->architecture == architecture) {
      return family;
    }
    names.push_back(family->architecture);
  }
  return Unimplemented("general.architecture: \"{}\" is not supported (there is {})",
                       Printable(architecture, 40), fmt::join(names, ", "));
}

ModelTensors ListTensors(const ModelConfig& config) {
  const Result<const ModelFamily*> family = FindFamily(config.architecture);
  CHECK(family.ok());
  return (*family)->list_tensors(config);
}

}  // namespace thermocline
