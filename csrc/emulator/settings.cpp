#include "settings.h"

#include "emulator.h"

namespace torchext::emulator {

namespace {
Settings settings;
}

const Settings& current_settings() { return settings; }

Device device() {
  return {settings.multiprocessors, settings.multiprocessors * settings.blocks_at_once,
          settings.shared_bytes};
}

extern "C" void torchext_emulator_get_settings(Settings* into) { *into = settings; }
// Between launches only.
extern "C" void torchext_emulator_set_settings(const Settings* from) { settings = *from; }

}  // namespace torchext::emulator
