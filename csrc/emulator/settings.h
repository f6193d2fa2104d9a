// How launches run. torchext/emulator.py has the same struct.
#pragma once

#include <cstdint>

namespace torchext::emulator {

struct Settings {
  uint64_t seed = 1;                 // of the order in which threads run
  int32_t workers = 0;               // OS threads; 0: as many as there are CPUs
  int32_t races = 1;                 // whether to look for them
  int32_t late_copies = 1;           // cp.async and TMA land as late as allowed; 0: at any time
  int32_t counts = 0;                // for profile()
  int32_t multiprocessors = 4;       // of the device that launchers see
  int32_t blocks_at_once = 2;        // on each of them
  int32_t shared_bytes = 99 * 1024;  // of a block: sm_86, 89 and 120; 163 KB on 80, 227 on 90
};

const Settings& current_settings();

}  // namespace torchext::emulator
