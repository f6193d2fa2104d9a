// What was found: a kind, and where, in the words of a source file.
#pragma once

#include <string>
#include <vector>

namespace torchext::emulator {

// Of the thread that runs, or of none. Alike ones (kind and place) count as one.
void report(const char* kind, void* at, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

// All that was found since the last call, in words; empty if nothing was.
std::string take_findings(const std::string& replay);

struct Place {
  std::string function, file;  // file:line, of the innermost line that belongs to a kernel
};
// Of code addresses, in one go. Return addresses lie behind their call: pass them less 1.
std::vector<Place> places_of(const std::vector<void*>& code);

}  // namespace torchext::emulator
