// The program that renders chat templates for a server, which starts it and limits what it may use:
// a template is a program by whoever made the model.

#include <unistd.h>

#include "engine/text/template_host.h"
#include "engine/worker/worker_loop.h"

int main(int argc, char** argv) {
  // Without CPython's end: nothing of it is kept.
  _exit(thermocline::RunWorker(argc, argv, {}, &thermocline::StartTemplateHost));
}
