// The operations on the CPU, in the widest instruction set that the chip has.
#pragma once

#include <string>
#include <vector>

#include "../operations.h"

namespace octavo::cpu {

// Instruction sets that this chip has, the widest last, and the one in use. `set_level` throws for one it lacks.
std::vector<std::string> levels();
std::string level();
void set_level(const std::string& name);

void rms_norm(const RmsNorm& a, DType dtype);
void rotary_kv_write(const RotaryKvWrite& a, DType dtype);
void paged_attention(const PagedAttention& a, DType dtype);
void gated_activation(const GatedActivation& a, DType dtype);
void copy_blocks(const CopyBlocks& a);

}  // namespace octavo::cpu
