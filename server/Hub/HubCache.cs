using System.Text.RegularExpressions;

namespace Native.Server.Hub;

/// <summary>The official client's cache: <c>models--ORG--REPO/blobs</c> by hash, <c>snapshots/COMMIT</c> with links to
/// them by name, <c>refs</c> from branches and tags to commits.</summary>
/// <param name="root">The folder of all repositories.</param>
/// <param name="symlinks">Whether snapshots may be links; where not, or where the system can't, the files themselves
/// lie in the snapshot, as the official client has it.</param>
internal sealed partial class HubCache(string root, bool symlinks)
{
    /// <summary>How often a lock that somebody else has is tried.</summary>
    private static readonly TimeSpan LockPoll = TimeSpan.FromMilliseconds(200);

    public string Root => root;

    /// <summary>What the disk has left; null where the system doesn't tell, as for a Windows share.</summary>
    public long? FreeBytes
    {
        get
        {
            try
            {
                return new DriveInfo(root).AvailableFreeSpace;
            }
            catch (Exception e) when (e is ArgumentException or IOException or UnauthorizedAccessException)
            {
                return null;
            }
        }
    }

    public static bool IsCommit(string revision) => CommitHash().IsMatch(revision);

    /// <summary>Where a file with this hash lies, or would lie.</summary>
    public string Blob(string repository, string etag) => Path.Combine(Folder(repository), "blobs", etag);

    public string Snapshot(string repository, string commit) => Path.Combine(Folder(repository), "snapshots", commit);

    /// <summary>The commit that a revision was when it was last downloaded; null where that is unknown.</summary>
    public string? Commit(string repository, string revision)
    {
        if (IsCommit(revision)) return revision;
        string file = Reference(repository, revision);
        if (!File.Exists(file)) return null;
        string commit = File.ReadAllText(file).Trim();
        return IsCommit(commit) ? commit : null;
    }

    /// <summary>Remembers which commit a revision is.</summary>
    public void SetCommit(string repository, string revision, string commit)
    {
        if (revision == commit || Commit(repository, revision) == commit) return;
        string file = Reference(repository, revision);
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        Replace(file, temporary => File.WriteAllText(temporary, commit));
    }

    /// <summary>Whether a snapshot has a whole file of this size by this name.</summary>
    public bool Has(string repository, string commit, string path, long size) =>
        Length(Path.Combine(Snapshot(repository, commit), path)) == size;

    /// <summary>The names of a snapshot's files, with slashes; none where there is no such snapshot.</summary>
    public IEnumerable<string> Files(string repository, string commit)
    {
        string snapshot = Snapshot(repository, commit);
        if (!Directory.Exists(snapshot)) return [];
        return Directory.EnumerateFiles(snapshot, "*", SearchOption.AllDirectories)
            .Where(File.Exists) // a link to nothing is no file
            .Select(file => Path.GetRelativePath(snapshot, file).Replace(Path.DirectorySeparatorChar, '/'));
    }

    /// <summary>Gives a blob its name in a snapshot. The blob's lock must be held.</summary>
    /// <param name="repository"><c>ORG/REPO</c>.</param>
    /// <param name="commit">The snapshot's.</param>
    /// <param name="path">Name in it.</param>
    /// <param name="etag">The blob's hash.</param>
    /// <param name="isNew">No other snapshot can have the blob.</param>
    public void Link(string repository, string commit, string path, string etag, bool isNew)
    {
        string blob = Blob(repository, etag), pointer = Path.Combine(Snapshot(repository, commit), path);
        string folder = Path.GetDirectoryName(pointer)!;
        Directory.CreateDirectory(folder);
        try
        {
            if (symlinks)
            {
                Replace(pointer, temporary => File.CreateSymbolicLink(temporary, Path.GetRelativePath(folder, blob)));
                return;
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or PlatformNotSupportedException)
        {
            // Windows without the right to make links, or a file system without them: plain files.
        }
        if (isNew) File.Move(blob, pointer, overwrite: true);
        else Replace(pointer, temporary => File.Copy(blob, temporary));
    }

    /// <summary>Makes a repository's folders.</summary>
    public void Prepare(string repository, string commit)
    {
        Directory.CreateDirectory(Path.Combine(Folder(repository), "blobs"));
        Directory.CreateDirectory(Snapshot(repository, commit));
        string tag = Path.Combine(root, "CACHEDIR.TAG"); // backups leave such folders out
        if (!File.Exists(tag))
            Replace(tag,
                temporary => File.WriteAllText(temporary,
                    "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of models from the Hugging Face hub.\n"));
    }

    /// <summary>Waits for the lock that keeps two downloads of one file apart, the official client's too (flock on
    /// Unix).</summary>
    /// <param name="repository"><c>ORG/REPO</c>.</param>
    /// <param name="etag">The file's hash.</param>
    /// <param name="waiting">Called once where somebody else has it.</param>
    /// <param name="ct">Gives up.</param>
    /// <returns>Held until disposed of.</returns>
    public async Task<IDisposable> LockAsync(string repository, string etag, Action waiting, CancellationToken ct)
    {
        string folder = Path.Combine(root, ".locks", Name(repository));
        Directory.CreateDirectory(folder);
        string file = Path.Combine(folder, etag + ".lock");
        for (bool told = false; ; told = true)
        {
            try
            {
                return new FileStream(file, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (File.Exists(file))
            {
                if (!told) waiting();
                await Task.Delay(LockPoll, ct);
            }
        }
    }

    /// <summary>A file's length, that of what a link leads to; null where there is none.</summary>
    public static long? Length(string path)
    {
        if (!File.Exists(path)) return null;
        FileInfo file = new(path);
        return file.LinkTarget is null ? file.Length
            : (file.ResolveLinkTarget(returnFinalTarget: true) as FileInfo)?.Length;
    }

    /// <summary>Writes beside a file and puts the result in its place at once: nobody sees half of it.</summary>
    private static void Replace(string path, Action<string> write)
    {
        string temporary = $"{path}.{Guid.NewGuid():n}.tmp";
        try
        {
            write(temporary);
            File.Move(temporary, path, overwrite: true);
        }
        catch
        {
            File.Delete(temporary);
            throw;
        }
    }

    private string Folder(string repository) => Path.Combine(root, Name(repository));

    private string Reference(string repository, string revision) => Path.Combine(Folder(repository), "refs", revision);

    private static string Name(string repository) =>
        "models--" + repository.Replace("/", "--", StringComparison.Ordinal);

    [GeneratedRegex(@"\A[0-9a-f]{40}\z")]
    private static partial Regex CommitHash();
}
