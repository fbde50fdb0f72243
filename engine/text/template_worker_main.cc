// The program that renders chat templates for a server. The server starts it and limits what it may
// use, because a template is a program by whoever made the model.

#include <unistd.h>

#include "engine/text/template_host.h"
#include "engine/worker/worker_loop.h"

int main(int argc, char** argv) {
  // Ends without CPython's own finalisation, which nothing needs.
  _exit(thermocline::RunWorker(argc, argv, {}, &thermocline::StartTemplateHost));
}
