#include "engine/text/chat_template.h"

#include <pybind11/embed.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "engine/text/chat_template_source.h"

namespace py = pybind11;

namespace thermocline {
namespace {

// A process can have one CPython, which cannot be started anew: it lives from the first use to the
// process's end. It ignores the environment and the user's site folder and installs no signal
// handlers. Between uses its lock is free, so that any thread may render.
class Interpreter {
 public:
  // Nothing when CPython cannot start.
  static const py::object* CompileFunction() {
    static const Interpreter* const interpreter = std::make_unique<Interpreter>().release();
    return interpreter->compile_ ? &*interpreter->compile_ : nullptr;
  }

  Interpreter() {
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.install_signal_handlers = 0;
    // The interpreter whose library this is linked with, whatever stands first on PATH.
    PyConfig_SetBytesString(&config, &config.program_name, "/usr/bin/python3");
    const PyStatus status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status) != 0) {
      return;
    }
    try {
      py::dict scope;
      scope["__name__"] = "chat_template";
      scope["__builtins__"] = py::module_::import("builtins");
      py::exec(kChatTemplateSource, scope);
      compile_ = scope["compile_template"];
    } catch (const py::error_already_set&) {
      compile_.reset();  // no jinja2
    }
    PyEval_SaveThread();
  }

 private:
  std::optional<py::object> compile_;
};

// Python's exception as a Status. The interpreter's lock is held.
Status ToStatus(const py::error_already_set& error) {
  const std::string type = py::str(error.type().attr("__name__"));
  const std::string message = py::str(error.value());
  if (type == "LimitExceeded") {
    return message == "time" ? DeadlineExceeded("the chat template took too long")
                             : ResourceExhausted("the chat template's output is too long");
  }
  if (type == "MemoryError" || type == "RecursionError") {
    return ResourceExhausted("the chat template needs too much memory");
  }
  std::string where;
  if (py::hasattr(error.value(), "lineno")) {
    where = fmt::format(" (line {})", std::string(py::str(error.value().attr("lineno"))));
  }
  return InvalidArgument("the chat template failed: {}{}", message.substr(0, 500), where);
}

class JinjaTemplate final : public ChatTemplate {
 public:
  explicit JinjaTemplate(py::object render) : render_(std::move(render)) {}
  ~JinjaTemplate() override {
    const py::gil_scoped_acquire lock;
    render_ = py::object();
  }
  JinjaTemplate(const JinjaTemplate&) = delete;
  JinjaTemplate& operator=(const JinjaTemplate&) = delete;

  Result<RenderedPrompt> Render(const ChatTemplateInput& input) const override {
    // Tracing switches threads at any line; one render at a time keeps each one's clock its own.
    const std::lock_guard one_at_a_time(mutex_);
    const py::gil_scoped_acquire lock;
    try {
      const py::tuple result = render_(input.messages_json, input.tools_json, input.kwargs_json,
                                       input.add_generation_prompt, input.continue_final_message);
      RenderedPrompt prompt{.text = result[0].cast<std::string>()};
      for (const auto place : result[1].cast<std::vector<size_t>>()) {
        AddPlainRange(place, prompt);
      }
      return prompt;
    } catch (const py::error_already_set& error) {
      return ToStatus(error);
    } catch (const py::cast_error&) {
      return InvalidArgument("the chat template's input is not UTF-8");
    }
  }

 private:
  // A control token that came from a message was cut after its first character, at `place`.
  static void AddPlainRange(size_t place, RenderedPrompt& prompt) {
    const ByteRange range{place > 0 ? place - 1 : 0, std::min(place + 1, prompt.text.size())};
    if (!prompt.plain_ranges.empty() && prompt.plain_ranges.back().end >= range.begin) {
      prompt.plain_ranges.back().end = range.end;
    } else {
      prompt.plain_ranges.push_back(range);
    }
  }

  py::object render_;
  mutable std::mutex mutex_;
};

}  // namespace

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::Create(std::string_view source,
                                                           ChatTemplateTokens tokens,
                                                           ChatTemplateLimits limits) {
  const py::object* compile = Interpreter::CompileFunction();
  if (compile == nullptr) {
    return FailedPrecondition("chat templates need Debian's python3 and python3-jinja2");
  }
  const py::gil_scoped_acquire lock;
  try {
    py::object render =
        (*compile)(std::string(source), tokens.bos_token, tokens.eos_token, tokens.control_tokens,
                   limits.max_output_bytes, static_cast<double>(limits.max_time.count()) / 1000.0);
    return std::unique_ptr<ChatTemplate>(std::make_unique<JinjaTemplate>(std::move(render)));
  } catch (const py::error_already_set& error) {
    return ToStatus(error);
  } catch (const py::cast_error&) {
    return InvalidArgument("the chat template is not UTF-8");
  }
}

}  // namespace thermocline
