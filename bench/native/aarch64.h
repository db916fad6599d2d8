/* What an A64 instruction is, from its 32-bit word (Arm Architecture Reference Manual DDI 0487, C4.1). */
#pragma once

#include <stdint.h>

/* FMLA and DOT are part of SIMD; LOAD_STORE, SIMD, BRANCH and INT add up to ALL. */
enum kind { ALL, LOAD_STORE, SIMD, FMLA, DOT, INT, BRANCH, MACS, KINDS };

static const char *const kind_names[KINDS] = {"all", "load_store", "simd",   "fmla",
                                              "dot", "int",        "branch", "macs"};

/* Multiply-accumulates of a floating-point multiply-add, one per lane; 0 for any other instruction. */
static unsigned fmla_lanes(uint32_t word) {
  const unsigned full = word >> 30 & 1; /* Q: 128-bit registers, not 64 */
  if ((word & 0xff000000) == 0x1f000000) return 1;             /* FMADD, FMSUB, FNMADD, FNMSUB */
  if ((word & 0xbf20fc00) == 0x0e20cc00)                       /* FMLA, FMLS (vector) */
    return (word >> 22 & 1 ? 1 : 2) << full;
  if ((word & 0xbf60fc00) == 0x0e400c00) return 4u << full;    /* the same, half precision */
  if ((word & 0x9f00b400) == 0x0f001000 && !(word >> 29 & 1)) { /* FMLA, FMLS (by element) */
    const unsigned size = word >> 22 & 3;
    if (size == 1) return 0;
    return (size == 0 ? 4 : size == 2 ? 2 : 1) << full;
  }
  if ((word & 0xff00b400) == 0x5f001000) return (word >> 22 & 3) != 1; /* the same, scalar */
  return 0;
}

/* Multiply-accumulates of an SDOT, UDOT, USDOT or SUDOT: four per 32-bit lane; 0 for any other. */
static unsigned dot_lanes(uint32_t word) {
  const unsigned lanes = 8u << (word >> 30 & 1);
  if ((word & 0x9fe0fc00) == 0x0e809400) return lanes;                         /* SDOT, UDOT (vector) */
  if ((word & 0xbfe0fc00) == 0x0e809c00) return lanes;                         /* USDOT (vector) */
  if ((word & 0x9fc0f400) == 0x0f80e000) return lanes;                         /* SDOT, UDOT (by element) */
  if ((word & 0xbf40f400) == 0x0f00f000) return lanes;                         /* USDOT, SUDOT (by element) */
  return 0;
}

/* Adds one instruction to counts. */
static void count_instruction(uint32_t word, uint64_t counts[KINDS]) {
  const unsigned group = word >> 25 & 15; /* op0 */
  counts[ALL]++;
  if ((group & 5) == 4) {
    counts[LOAD_STORE]++;
  } else if ((group & 14) == 10) {
    counts[BRANCH]++; /* and exceptions, hints, system registers */
  } else if ((group & 7) == 7) {
    const unsigned fmla = fmla_lanes(word), dot = dot_lanes(word);
    counts[SIMD]++;
    counts[FMLA] += fmla > 0;
    counts[DOT] += dot > 0;
    counts[MACS] += fmla + dot;
  } else {
    counts[INT]++; /* data processing; SVE too, which a Cortex-A76 has not */
  }
}
