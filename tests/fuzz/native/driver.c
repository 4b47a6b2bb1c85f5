/* Stands where libFuzzer does when there is only gcc: replay a corpus, then mutate it for so many executions.

       ring_fuzz CORPUS EXECUTIONS [SEED]      or      ring_fuzz FILE        to run one input again

   Without coverage it finds less than libFuzzer; it is what keeps the targets built, and the corpus true, everywhere.
   The input under way is left in ./crash-input if it ends the process. */

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INPUT_MAX 4096U
#define CORPUS_MAX 2048U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static struct {
    uint8_t bytes[INPUT_MAX];
    size_t size;
} corpus[CORPUS_MAX], current;
static size_t corpus_size;
static uint64_t seed = 1;

static uint64_t next_random(void) { /* xorshift64* */
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * 0x2545F4914F6CDD1DULL;
}

static void leave_input(void) {
    int fd = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0 && write(fd, current.bytes, current.size) == (ssize_t)current.size) close(fd);
}

static void on_abort(int signal_number) {
    leave_input();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void run_current(void) { LLVMFuzzerTestOneInput(current.bytes, current.size); }

static int load(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    current.size = fread(current.bytes, 1, INPUT_MAX, file);
    fclose(file);
    return 1;
}

static void load_corpus(const char *directory) {
    DIR *entries = opendir(directory);
    if (!entries) return;
    for (struct dirent *entry; (entry = readdir(entries)) && corpus_size < CORPUS_MAX;) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (entry->d_name[0] == '.' || !load(path)) continue;
        run_current();
        corpus[corpus_size++] = current;
    }
    closedir(entries);
}

static void mutate(void) {
    current.size = 0;
    if (corpus_size && next_random() % 16) current = corpus[next_random() % corpus_size];
    for (uint64_t changes = 1 + next_random() % 8; changes; changes--) {
        size_t at = current.size ? next_random() % current.size : 0, n = 1 + next_random() % 16;
        switch (next_random() % 5) {
            case 0: /* one byte */
                if (current.size) current.bytes[at] = (uint8_t)next_random();
                break;
            case 1: /* one bit */
                if (current.size) current.bytes[at] ^= 1 << next_random() % 8;
                break;
            case 2: /* more */
                if (current.size + n > INPUT_MAX) break;
                memmove(current.bytes + at + n, current.bytes + at, current.size - at);
                for (size_t i = 0; i < n; i++) current.bytes[at + i] = (uint8_t)next_random();
                current.size += n;
                break;
            case 3: /* less */
                if (at + n > current.size) break;
                memmove(current.bytes + at, current.bytes + at + n, current.size - at - n);
                current.size -= n;
                break;
            default: { /* the end of another */
                if (!corpus_size) break;
                size_t other = next_random() % corpus_size, from = next_random() % (corpus[other].size + 1);
                size_t rest = corpus[other].size - from;
                if (at + rest > INPUT_MAX) break;
                memcpy(current.bytes + at, corpus[other].bytes + from, rest);
                current.size = at + rest;
            }
        }
    }
}

int main(int argc, char **argv) {
    struct stat found;
    if (argc < 2 || stat(argv[1], &found)) {
        fprintf(stderr, "usage: %s CORPUS EXECUTIONS [SEED] | FILE\n", argv[0]);
        return 2;
    }
    if (S_ISREG(found.st_mode)) return load(argv[1]) ? run_current(), 0 : 2;
    signal(SIGABRT, on_abort);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(leave_input);
    if (argc > 3) seed = strtoull(argv[3], NULL, 0) | 1;
    load_corpus(argv[1]);
    uint64_t executions = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
    for (uint64_t i = 0; i < executions; i++) {
        mutate();
        run_current();
    }
    printf("executions: %llu\n", (unsigned long long)(executions + corpus_size));
    return 0;
}
