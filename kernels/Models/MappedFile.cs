using System.IO.MemoryMappedFiles;
using Microsoft.Win32.SafeHandles;

namespace Native.Kernels.Models;

/// <summary>A whole file mapped read-only into memory. The bytes are valid until <see cref="Dispose"/>; nobody may shorten the file meanwhile
/// (reading a page that is gone ends the process, as with every memory-mapped file).</summary>
internal sealed unsafe class MappedFile : IDisposable
{
    private readonly MemoryMappedFile? _file;
    private readonly MemoryMappedViewAccessor? _view;
    private int _disposed;

    /// <exception cref="InvalidDataException">The path is a folder's.</exception>
    /// <exception cref="IOException">The file is not there or can't be read.</exception>
    public MappedFile(string path)
    {
        Path = path;
        if (Directory.Exists(path)) throw new InvalidDataException($"{path}: expected a file, found a folder");
        using SafeFileHandle handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read, FileOptions.SequentialScan);
        Length = RandomAccess.GetLength(handle);
        if (Length == 0) return; // an empty file can't be mapped; whoever parses it says what is missing

        _file = MemoryMappedFile.CreateFromFile(handle, mapName: null, capacity: 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
        try
        {
            _view = _file.CreateViewAccessor(0, Length, MemoryMappedFileAccess.Read);
            byte* address = null;
            _view.SafeMemoryMappedViewHandle.AcquirePointer(ref address);
            Address = address + _view.PointerOffset;
        }
        catch
        {
            _view?.Dispose();
            _file.Dispose();
            throw;
        }
    }

    public string Path { get; }
    public long Length { get; }

    /// <summary>The first byte; null for an empty file.</summary>
    public byte* Address { get; }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0 || _view is null) return;
        _view.SafeMemoryMappedViewHandle.ReleasePointer();
        _view.Dispose();
        _file!.Dispose();
    }
}
