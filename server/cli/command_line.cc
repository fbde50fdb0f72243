#include "server/cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "server/api/kv_names.h"
#include "server/cli/flag_checks.h"

namespace thermocline {
namespace {

constexpr int kMaxInt = 1 << 30;

// More than any machine has: an error of the hand.
constexpr uint64_t kMaxMemoryBytes = uint64_t{64} << 40;
constexpr uint64_t kMaxDiskBytes = uint64_t{1} << 50;
// The tokenizer counts bytes in 31 bits.
constexpr uint64_t kMinBodyBytes = uint64_t{1} << 10;
constexpr uint64_t kMaxBodyBytes = uint64_t{1} << 30;

// One of a table's names; `set` gets its value.
template <typename T, size_t size, typename Set>
void AddChoice(CLI::App& app, const std::string& name, const Named<T> (&table)[size],
               const std::type_identity_t<T>& by_default, Set set, const std::string& help) {
  app.add_option_function<std::string>(
         name, [&table, set](const std::string& choice) { set(FindNamed(table, choice).value()); },
         help)
      ->check(CLI::IsMember(AllNames(table)))
      ->default_str(std::string(NameOf(table, by_default)));
}

void AddCommonOptions(CLI::App& app, EngineConfig& engine, CommandLine& line) {
  app.add_option("-m,--model,MODEL", engine.model_path, "The model: a GGUF file")
      ->required()
      ->type_name("FILE");
  app.add_option("-c,--max-model-len,--ctx-size", engine.max_model_len,
                 "Longest prompt and answer together, in tokens (default: the model's)")
      ->check(CLI::Range(1, kMaxInt));
  app.add_option(
         "--kv-cache-memory-bytes", engine.kv_cache_memory_bytes,
         "Memory for the KV cache, e.g. 2G (default: what the model and this machine suggest)")
      ->transform(ByteSizeFrom(0, kMaxMemoryBytes));
  AddChoice(
      app, "--kv-policy", kKvPolicyNames, {engine.kv_policy, engine.baseline},
      [&engine](const KvPolicyChoice& choice) {
        engine.kv_policy = choice.policy;
        engine.baseline = choice.baseline;
      },
      "How pages of the KV cache cool: adaptive (when memory is short, those that matter "
      "least first), hot (never), warm or cold (all but the first and the recent, at once); to "
      "measure with: archive (as cold, and a tier further); to compare with: streaming, h2o or "
      "snapkv (tokens over --kv-budget are evicted for good)");
  AddChoice(
      app, "--kv-fidelity", kKvFidelityNames, engine.kv_fidelity,
      [&engine](KvFidelity fidelity) { engine.kv_fidelity = fidelity; },
      "How much a request that does not say gives up for memory: exact (nothing), high, "
      "balanced or max");
  app.add_option("--kv-budget", engine.kv_budget,
                 "Hold each sequence to this part of its all-hot bytes (default: as memory allows)")
      ->check(NumberFrom(0, 1));
  app.add_option("--calibration-dir", engine.calibration_dir,
                 "Where calibrations of models are kept (default: thermocline/calibration in the "
                 "user's cache)");
  app.add_option("--chat-template", line.chat_template_path,
                 "A Jinja file instead of the model's own chat template")
      ->check(CLI::ExistingFile);
  app.add_option("-t,--threads", engine.num_threads,
                 "Threads that compute (default: the cores this process may use)")
      ->check(CLI::Range(0, 1024));
  std::vector<std::string> isa_names;
  for (const IsaLevel level : kIsaLevels) {
    isa_names.emplace_back(IsaName(level));
  }
  app.add_option_function<std::string>(
         "--cpu-isa", [&engine](const std::string& name) { engine.cpu_isa = IsaNamed(name); },
         "Instructions of the kernels (default: the best that this CPU has)")
      ->check(CLI::IsMember(isa_names));
  app.add_option("--log-level", line.log_level, "trace, debug, info, warning, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "off"}))
      ->capture_default_str();
}

void AddEngineOptions(CLI::App& app, EngineConfig& engine) {
  app.add_option("--max-num-seqs,--parallel", engine.max_num_seqs, "Sequences that run at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--max-num-batched-tokens", engine.max_num_batched_tokens, "Tokens per step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option(
         "--max-num-prefill-tokens-while-decoding", engine.max_num_prefill_tokens_while_decoding,
         "Of these, tokens of prompts while somebody decodes: fewer, and running streams stall "
         "less while new ones wait longer for their first token; 0: no bound")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-num-queued-reqs", engine.max_num_queued_reqs,
                 "Requests that may wait, beside those that run; more are refused with 503")
      ->check(CLI::Range(0, kMaxInt))
      ->capture_default_str();
  app.add_option("--kv-store-dir", engine.kv_store_dir,
                 "Keep pages that leave memory in this directory: conversations outlive idleness "
                 "and restart (default: nowhere)");
  app.add_option("--kv-store-memory-bytes", engine.kv_store_memory_bytes,
                 "Memory for such pages, beside the KV cache (default: 256M with a directory, else "
                 "none)")
      ->transform(ByteSizeFrom(0, kMaxMemoryBytes));
  app.add_option("--kv-store-disk-bytes", engine.kv_store_disk_bytes,
                 "Most bytes of files in that directory (default: 8G)")
      ->transform(ByteSizeFrom(0, kMaxDiskBytes));
  app.add_option("--block-size", engine.block_size, "Tokens per page of the KV cache; only 64")
      ->check(CLI::IsMember({64}))
      ->capture_default_str();
  app.add_flag("--calibrate,!--no-calibrate", engine.calibrate,
               "Measure, while idle, which formats the model's cold pages need (default: yes, once "
               "per model; until then, and without, they have 4-bit keys)");
  app.add_flag("--enable-prefix-caching,!--no-enable-prefix-caching", engine.enable_prefix_caching,
               "Keep the KV cache of prompts for later requests that start alike (default: on)");
}

void AddServeOptions(CLI::App& app, ServeOptions& serve) {
  HttpOptions& http = serve.http;
  app.add_option("--host", http.host, "Address to listen on; 0.0.0.0 is all")
      ->check(NotBlank())
      ->capture_default_str();
  app.add_option("--port", http.port, "Port to listen on; 0 is any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--served-model-name,--alias", serve.served_model_names,
                 "The model's name in the API, several to answer to all (default: the file's name)")
      ->check(NotBlank());
  AddEngineOptions(app, serve.engine);
  app.add_option("--http-threads", http.num_threads, "Threads that serve connections")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--max-connections", http.max_connections, "Open connections; more get 503")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-body-bytes", http.max_body_bytes, "Longest request body (default: 8M)")
      ->transform(ByteSizeFrom(kMinBodyBytes, kMaxBodyBytes));
  app.add_option("--max-connections-per-address", http.max_connections_per_address,
                 "Of these, from one address; more get 429; 0: no bound (default: three quarters)")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--allowed-origins", http.origins.allowed_origins,
                 "Web pages that may use the server beside its own, as https://name[:port]; * is "
                 "all (default: none)")
      ->delimiter(',')
      ->check(OriginRule());
  app.add_option("--allowed-hosts", http.origins.allowed_hosts,
                 "Names by which a server on a loopback address may be reached, beside localhost; "
                 "* is all (default: none)")
      ->delimiter(',')
      ->check(HostRule());
  AddSeconds(app, "--header-timeout", http.header_timeout, "For a request's header to arrive");
  AddSeconds(app, "--body-timeout", http.body_timeout, "For its body");
  AddSeconds(app, "--idle-timeout", http.idle_timeout, "A connection may wait between requests");
  AddSeconds(app, "--write-timeout", http.write_timeout,
             "For a client to read 16 KiB of what waits for it");
  AddSeconds(
      app, "--shutdown-timeout", serve.shutdown_timeout,
      "For running requests to finish after SIGTERM, SIGHUP or Ctrl-C; a second signal aborts",
      /*may_be_zero=*/true);
}

void AddChatOptions(CLI::App& app, ChatOptions& chat) {
  app.add_option("--system", chat.system_prompt, "A system message");
  app.add_option("--temperature,--temp", chat.temperature, "0 is always the likeliest token")
      ->check(NumberFrom(0, 100))
      ->capture_default_str();
  app.add_option("--top-p", chat.top_p, "Draw from the likeliest tokens that make up this much")
      ->check(NumberFrom(0.0001, 1))
      ->capture_default_str();
  app.add_option("--seed", chat.seed, "The same seed gives the same answers");
  app.add_option("-n,--max-tokens", chat.max_tokens,
                 "Tokens of one answer (default: what the context holds)")
      ->check(CLI::Range(0, kMaxInt));
}

CLI::App* AddKvAction(CLI::App& kv, const std::string& name, const std::string& help,
                      KvOptions::Action action, KvOptions& options) {
  CLI::App* app = kv.add_subcommand(name, help);
  app->add_option("DIR", options.directory, "What a server was given as --kv-store-dir")
      ->required();
  app->add_flag("--json", options.json, "For machines");
  app->callback([&options, action] { options.action = action; });
  return app;
}

void AddTenant(CLI::App& app, KvOptions& options) {
  app.add_option("--tenant", options.tenant, "Whose session it is")->capture_default_str();
}

CLI::App* AddKvCommand(CLI::App& app, KvOptions& options) {
  using Action = KvOptions::Action;
  CLI::App* kv = app.add_subcommand(
      "kv", "Look at what a server keeps in its --kv-store-dir, or remove it; no model needed");
  kv->require_subcommand(1);
  AddKvAction(*kv, "ls", "List saved sessions", Action::kList, options);
  CLI::App* inspect =
      AddKvAction(*kv, "inspect", "Tell pages by model and tier, or all about a session",
                  Action::kInspect, options);
  inspect->add_option("SESSION", options.session, "A saved session (default: the whole store)");
  AddTenant(*inspect, options);
  CLI::App* remove =
      AddKvAction(*kv, "rm", "Remove a session, a model's pages and sessions, or all",
                  Action::kRemove, options);
  AddTenant(*remove, options);
  CLI::Option_group* what = remove->add_option_group("What", "One of these");
  what->add_option("SESSION", options.session, "A saved session; its pages stay for others");
  what->add_option("--identity", options.identity, "All of one model: at least 4 of its digits")
      ->check(CLI::Validator(
          [](std::string& digits) {
            const bool hex = std::all_of(digits.begin(), digits.end(), [](unsigned char c) {
              return std::isdigit(c) != 0 || (c >= 'a' && c <= 'f');
            });
            return std::string(hex && digits.size() >= 4 ? "" : "must be 4 to 32 digits 0-9, a-f");
          },
          "HEX"));
  what->add_flag("--all", options.remove_all, "All of it");
  what->require_option(1);
  return kv;
}

// THERMOCLINE_MAX_MODEL_LEN for --max-model-len: every flag has its variable.
void AddEnvironment(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_lnames().empty() || option->get_lnames().front() == "help") {
      continue;
    }
    std::string name = "THERMOCLINE_" + option->get_lnames().front();
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
      return c == '-' ? '_' : static_cast<char>(std::toupper(c));
    });
    option->envname(name);
  }
}

// llama.cpp's -np has two letters, which is no short flag here. Last argument first, as CLI11
// wants.
std::vector<std::string> Arguments(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    const std::string argument = argv[i];
    arguments.push_back(argument == "-np" ? "--parallel" : argument);
  }
  return arguments;
}

}  // namespace

std::variant<CommandLine, int> ParseCommandLine(int argc, const char* const* argv,
                                                const std::string& version) {
  CLI::App app("Thermocline serves a language model to any OpenAI client.", "thermocline");
  app.set_version_flag("--version", "thermocline " + version);
  app.require_subcommand(1);
  app.footer("`thermocline serve --help` and `thermocline chat --help` list their flags.");
  app.get_formatter()->column_width(46);
  CommandLine line;
  ServeOptions serve;
  serve.http.max_connections_per_address = -1;  // not said
  ChatOptions chat;
  CLI::App* serve_command = app.add_subcommand(
      "serve", "Serve a model over HTTP: the OpenAI API, and a page to chat on at /");
  AddCommonOptions(*serve_command, serve.engine, line);
  AddServeOptions(*serve_command, serve);
  AddEnvironment(*serve_command);
  CalibrateOptions calibrate;
  calibrate.engine.calibrate_every_layer = true;
  CLI::App* calibrate_command = app.add_subcommand(
      "calibrate", "Measure what cold pages do to a model, layer by layer, and keep the result");
  AddCommonOptions(*calibrate_command, calibrate.engine, line);
  calibrate_command->add_flag("--afresh", calibrate.engine.calibrate_afresh,
                              "Measure again what has been measured before");
  AddEnvironment(*calibrate_command);
  CLI::App* chat_command = app.add_subcommand("chat", "Chat with a model in this terminal");
  AddCommonOptions(*chat_command, chat.engine, line);
  AddChatOptions(*chat_command, chat);
  AddEnvironment(*chat_command);
  KvOptions kv;
  CLI::App* kv_command = AddKvCommand(app, kv);
  try {
    app.parse(Arguments(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (serve_command->parsed()) {
    if (HttpOptions& http = serve.http; http.max_connections_per_address < 0) {
      http.max_connections_per_address = http.max_connections - http.max_connections / 4;
    }
    line.command = std::move(serve);
  } else if (calibrate_command->parsed()) {
    line.command = std::move(calibrate);
  } else if (kv_command->parsed()) {
    line.command = std::move(kv);
  } else {
    chat.engine.max_num_seqs = 1;
    line.command = std::move(chat);
  }
  return line;
}

}  // namespace thermocline
