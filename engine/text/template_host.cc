#include "engine/text/template_host.h"

#include <pybind11/embed.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "engine/text/chat_forms_source.h"
#include "engine/text/chat_template_source.h"
#include "engine/text/template_wire.h"
#include "engine/text/trusted_text_source.h"

namespace py = pybind11;

namespace thermocline {
namespace {

// The most plain ranges of a prompt. A range takes sixteen bytes in the server. A conversation has
// some ten ranges per message.
constexpr size_t kMaxRanges = size_t{1} << 18;

// Starts CPython. It ignores the environment and the user's site folder and installs no signal
// handlers.
bool StartInterpreter() {
  PyConfig config;
  PyConfig_InitIsolatedConfig(&config);
  config.install_signal_handlers = 0;
  // The interpreter whose library this is linked with, whatever stands first on PATH.
  PyConfig_SetBytesString(&config, &config.program_name, "/usr/bin/python3");
  const PyStatus status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  return PyStatus_Exception(status) == 0;
}

py::module_ MakeModule(const char* name, const char* source) {
  py::module_ made = py::module_::import("types").attr("ModuleType")(name);
  py::module_::import("sys").attr("modules")[name] = made;
  py::exec(source, made.attr("__dict__"));
  return made;
}

// Python's exception as a Status.
Status ToStatus(const py::error_already_set& error) {
  const std::string type = py::str(error.type().attr("__name__"));
  if (type == "LimitExceeded") {
    return ResourceExhausted("its output is too long");
  }
  if (type == "MemoryError" || type == "RecursionError") {
    return ResourceExhausted("it needs too much memory");
  }
  const std::string message = py::str(error.value());
  std::string where;
  if (py::hasattr(error.value(), "lineno")) {
    where = fmt::format(" (line {})", std::string(py::str(error.value().attr("lineno"))));
  }
  return InvalidArgument("{}{}", message.substr(0, 500), where);
}

size_t CharacterBytes(unsigned char first) {
  return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

// Finds the mask's runs that are not the template's own. `text` is UTF-8, with one character for
// each byte of the mask. `ranges` gets the begin and end of each run in bytes of `text`, 32 bits
// each. False past kMaxRanges.
bool PlainRanges(std::string_view text, std::string_view mask, std::string& ranges) {
  const bool one_to_one = text.size() == mask.size();
  size_t place = 0;
  for (size_t i = 0; i < mask.size();) {
    const bool plain = mask[i] != 1;
    const size_t end = plain ? std::min(mask.find('\1', i), mask.size())
                             : std::min(mask.find_first_not_of('\1', i), mask.size());
    const size_t begin_place = place;
    if (one_to_one) {
      place = end;
    } else {
      for (size_t j = i; j < end; ++j) {
        place += CharacterBytes(static_cast<unsigned char>(text[place]));
      }
    }
    if (plain) {
      for (const size_t border : {begin_place, place}) {
        const uint32_t value = static_cast<uint32_t>(border);
        ranges.append(reinterpret_cast<const char*>(&value), sizeof(value));
      }
      if (ranges.size() > kMaxRanges * 2 * sizeof(uint32_t)) {
        return false;
      }
    }
    i = end;
  }
  return true;
}

// The one template of a worker.
class TemplateHost {
 public:
  explicit TemplateHost(py::object compile) : compile_(std::move(compile)) {}

  Result<std::string> Handle(std::string_view request) {
    try {
      const auto call = static_cast<TemplateCall>(request.empty() ? '\0' : request[0]);
      request.remove_prefix(request.empty() ? 0 : 1);
      switch (call) {
        case TemplateCall::kCompile:
          return Compile(request);
        case TemplateCall::kFindForms:
          return std::to_string(find_forms_().cast<int>());
        case TemplateCall::kRender:
          return Render(request);
      }
      return Internal("not a call");
    } catch (const py::error_already_set& error) {
      return ToStatus(error);
    } catch (const py::cast_error&) {
      return InvalidArgument("it is not UTF-8");
    }
  }

 private:
  Result<std::string> Compile(std::string_view request) {
    std::string_view source;
    std::string_view bos;
    std::string_view eos;
    uint64_t max_output_bytes = 0;
    if (!TakeField(request, source) || !TakeField(request, bos) || !TakeField(request, eos) ||
        !TakeValue(request, max_output_bytes)) {
      return Internal("not a call");
    }
    const py::tuple made = compile_(py::str(source), py::str(bos), py::str(eos), max_output_bytes);
    render_ = made[0];
    find_forms_ = made[1];
    return std::string();
  }

  Result<std::string> Render(std::string_view request) {
    char flags = 0;
    int32_t forms = 0;
    std::string_view messages;
    std::string_view tools;
    std::string_view kwargs;
    if (!TakeValue(request, flags) || !TakeValue(request, forms) || !TakeField(request, messages) ||
        !TakeField(request, tools) || !TakeField(request, kwargs)) {
      return Internal("not a call");
    }
    const py::tuple made =
        render_(py::str(messages), py::str(tools), py::str(kwargs),
                (flags & kAddGenerationPrompt) != 0, (flags & kContinueFinalMessage) != 0, forms);
    const std::string_view text = made[0].cast<std::string_view>();
    std::string ranges;
    if (!PlainRanges(text, made[1].cast<std::string_view>(), ranges)) {
      return ResourceExhausted("its output has too many parts");
    }
    std::string answer;
    answer.reserve(ranges.size() + text.size() + 8);
    AppendField(answer, ranges);
    answer.append(text);
    return answer;
  }

  py::object compile_;
  py::object render_;
  py::object find_forms_;
};

}  // namespace

Result<WorkerHandler> StartTemplateHost() {
  const Status missing = FailedPrecondition("chat templates need Debian's python3-jinja2");
  if (!StartInterpreter()) {
    return missing;
  }
  try {
    MakeModule("trusted_text", kTrustedTextSource);
    MakeModule("chat_forms", kChatFormsSource);
    const py::module_ made = MakeModule("chat_template", kChatTemplateSource);
    // The objects that exist now stay: the garbage collector need not visit them again.
    py::module_::import("gc").attr("freeze")();
    // Shared: std::function wants what it holds to be copyable. Never destroyed before CPython.
    const auto host = std::make_shared<TemplateHost>(made.attr("compile_template"));
    return WorkerHandler([host](std::string_view request) { return host->Handle(request); });
  } catch (const py::error_already_set&) {
    return missing;
  }
}

}  // namespace thermocline
