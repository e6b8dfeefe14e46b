/** The part of fs-native-extensions that walcade uses; the package ships no types. */
declare module 'fs-native-extensions' {
  const locks: {
    /** Takes an exclusive (or a shared) lock on an open file; false if another process has it. */
    tryLock(descriptor: number, options?: { shared?: boolean }): boolean;
    unlock(descriptor: number): void;
  };
  export default locks;
}
