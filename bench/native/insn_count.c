/* A qemu plugin that counts the instructions an AArch64 program executes, by class.
 *
 *     qemu-aarch64 -plugin libinsn_count.so,out=FILE …
 *
 * appends one JSON line to FILE, the counts so far, whenever the program writes to its standard output: what
 * lies between two answers of bench's runner is the difference of two lines. Counts are exact with one thread.
 *
 * The API is version 1, of qemu 4.2 to 8 (include/qemu/qemu-plugin.h, declared here as no Debian package has
 * it); a newer qemu refuses the plugin as it loads.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "aarch64.h"

#define EXPORT __attribute__((visibility("default")))
#define OP_INLINE_ADD_U64 0
#define WRITE 64 /* AArch64's number of the system call, include/uapi/asm-generic/unistd.h */
#define STANDARD_OUTPUT 1

typedef uint64_t qemu_plugin_id_t;
struct qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*system_call_t)(qemu_plugin_id_t, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2,
                              uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, system_call_t);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *, uint64_t addend);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = 1;

static uint64_t counts[KINDS];
static FILE *out;

/* A block of straight-line code is counted when it is translated, and added whenever it is entered. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  uint64_t here[KINDS] = {0};
  (void)id;
  for (size_t index = 0; index < qemu_plugin_tb_n_insns(block); index++) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, index)), sizeof word);
    count_instruction(word, here);
  }
  for (int kind = 0; kind < KINDS; kind++)
    if (here[kind])
      qemu_plugin_register_vcpu_tb_exec_inline(block, OP_INLINE_ADD_U64, &counts[kind], here[kind]);
}

static void system_call(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t file, uint64_t a2,
                        uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != WRITE || file != STANDARD_OUTPUT) return;
  for (int kind = 0; kind < KINDS; kind++)
    fprintf(out, "%s\"%s\": %" PRIu64, kind ? ", " : "{", kind_names[kind], counts[kind]);
  fputs("}\n", out);
  fflush(out);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int count, char **options) {
  (void)info;
  for (int index = 0; index < count; index++)
    if (!strncmp(options[index], "out=", 4)) out = fopen(options[index] + 4, "w");
  if (!out) {
    fputs("insn_count: needs out=FILE, a file that can be written\n", stderr);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, system_call);
  return 0;
}
