; Says hello. OUT is a system instruction: on the real machine it reaches the console, in a VM it traps, and the
; monitor's routine for OUT reaches the console that the allocator gave to this VM.

start:  LDI  letter, next
        BZ   letter, end
        OUT  letter
        ADD  next, =1
        JMP  start
end:    HALT

letter: .word 0
next:   .word text
text:   .string "hello, world\n"
